"""Callbacks of a training run; each works in any Lightning trainer that fits a `Pretraining`."""
