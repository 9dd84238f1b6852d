"""Datasets on disk; import them from `vitlab.data`."""
