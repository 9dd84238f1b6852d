"""Seeding of libraries that draw from the global generators of Python and numpy."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and numpy inside, and restore them afterwards.

    Args:
        seed: at least 0, below 2^32.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002, timm draws from both
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def draw_seed() -> int:
    """Return a seed for `seeded_rng` from torch's CPU stream, which a run seeds for every step."""
    return int(torch.randint(2**32, (), device="cpu"))
