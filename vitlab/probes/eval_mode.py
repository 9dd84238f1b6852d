"""Evaluation mode for the time of a measurement."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode without gradients; random generators and mode are restored afterwards."""
    training = model.training
    model.eval()
    first = next(model.parameters(), None)
    devices = [first.device] if first is not None and first.is_cuda else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        model.train(training)
