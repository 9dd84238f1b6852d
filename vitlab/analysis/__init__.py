"""Encoders and images to tables and figures."""
