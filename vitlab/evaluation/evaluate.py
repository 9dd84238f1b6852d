"""One encoder, one protocol, one dataset: check, run, and tell what was found."""

import time
from dataclasses import dataclass, replace

import torch

from vitlab.data import Data
from vitlab.encoders import Encoder
from vitlab.evaluation.protocol import Outcome, Protocol, Work
from vitlab.evaluation.void import refuse_void
from vitlab.probes.freezing import frozen


@dataclass(frozen=True)
class Measured:
    """What was found, and how long it took.

    Attributes:
        outcome: of the protocol.
        seconds: from the first image to the last.
    """

    outcome: Outcome
    seconds: float


def check(encoder: Encoder, protocol: Protocol, data: Data) -> None:
    """Refuse, before any long work, what cannot be evaluated.

    Raises:
        ValueError: what was given, what is allowed, what to do.
    """
    for split in (data.train, data.val):
        samples = data.samples(split)
        missing = samples.labels if protocol.task == "classification" else samples.masks
        if missing is None:
            kind = "image labels" if protocol.task == "classification" else "masks"
            raise ValueError(
                f"{type(protocol).__name__} needs {kind}, which split {split!r} of "
                f"{type(data).__name__} does not have; choose other data or another protocol"
            )
    if data.max_unreadable:
        raise ValueError(
            f"max_unreadable is {data.max_unreadable}, but a test set with replaced images is "
            "another test set; set data.max_unreadable to 0"
        )
    if protocol.task == "segmentation":
        refuse_void(data, data.val)
    protocol.check(encoder, data)


def evaluate(encoder: Encoder, protocol: Protocol, data: Data, work: Work) -> Measured:
    """Evaluate an encoder; the same figure on any number of ranks, batch size and workers.

    Args:
        encoder: is frozen meanwhile, and moved to the device of the work.
        protocol: all that decides the number.
        data: a dataset with the labels or masks that the protocol needs.
        work: where and how fast.

    Raises:
        ValueError: what cannot be evaluated, before any long work; see `check`.
    """
    check(encoder, protocol, data)
    began = time.perf_counter()
    encoder.to(work.device)
    loading = replace(work.loading, precision=lambda: protocol.context(work.device))
    work = replace(work, loading=loading)
    with frozen(encoder):
        torch.manual_seed(work.seed)
        outcome = protocol.run(encoder, data, work)
    return Measured(outcome, time.perf_counter() - began)
