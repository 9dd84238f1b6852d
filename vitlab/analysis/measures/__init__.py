"""What is measured of tokens and attention weights: a file for each idea, all pure functions.

A measure of an image is a function of tensors and a `Scene` that returns numbers by measure and
role, (b,) or (b, heads), NaN where it is undefined. A measure of the set is a sum over images and a
`conclude`. `engine.py` calls them where their tensors pass; a new one is a function there and a
line here or there.
"""
