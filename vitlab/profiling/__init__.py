"""Profiling: trial steps and estimates of a run (`vitlab plan`), costs of encoders, timing."""
