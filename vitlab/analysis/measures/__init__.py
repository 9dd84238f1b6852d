"""Measures of tokens and attention weights: functions of a batch's tensors and a `BatchContext`.

A measure of an image returns numbers by measure and role, (b,) or (b, heads), NaN where undefined.
A measure of the whole set returns sums over images, from which a `conclude_...` makes rows and
arrays. `engine.py` calls them during a forward pass; `definitions.csv` says what each number is.
"""
