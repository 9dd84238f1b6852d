"""Measures of tokens and attention weights: pure functions, one file for each idea.

A measure of an image is a function of tensors and a `BatchContext`; it returns numbers by measure
and role, (b,) or (b, heads), NaN where undefined. A measure of the whole set is a sum over images
and a `conclude`. `engine.py` calls them on the tensors of a forward pass.
"""
