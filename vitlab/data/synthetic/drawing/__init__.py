"""Pictures from a random generator, for the synthetic data: from brushes to whole scenes.

Coordinates are (x, y) in pixels, y downwards; colors are RGB in [0, 1]; every random choice comes
from the generator that is handed in, so one generator makes one picture.
"""
