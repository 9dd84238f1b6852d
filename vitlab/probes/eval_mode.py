"""Holding an encoder still while it is measured."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(encoder: nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode, without gradients, beside the random streams."""
    training = encoder.training
    encoder.eval()
    first = next(encoder.parameters(), None)
    devices = [first.device] if first is not None and first.is_cuda else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        encoder.train(training)
