"""One encoder, one protocol, one dataset: check, run, and tell what was found."""

from dataclasses import replace

import torch

from vitlab.data import VisionDataModule
from vitlab.encoders import Encoder
from vitlab.evaluation.ignore_index import require_labels
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Protocol
from vitlab.probes.eval_mode import eval_mode


def check(encoder: Encoder, protocol: Protocol, data: VisionDataModule) -> None:
    """Refuse, before any long work, what cannot be evaluated.

    Raises:
        ValueError: what was given, what is allowed, what to do.
    """
    for split in (data.train_split, data.val_split):
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
        require_labels(data, data.val_split)
    protocol.check(encoder, data)


def evaluate(
    encoder: Encoder, protocol: Protocol, data: VisionDataModule, context: EvaluationContext
) -> Outcome:
    """Evaluate an encoder; the same figure on any number of ranks, batch size and workers.

    Args:
        encoder: is frozen meanwhile, and moved to the device of the work.
        protocol: all that decides the number.
        data: a dataset with the labels or masks that the protocol needs.
        context: where and how fast.

    Raises:
        ValueError: what cannot be evaluated, before any long work; see `check`.
    """
    check(encoder, protocol, data)
    encoder.to(context.device)
    loading = replace(context.loading, precision=lambda: protocol.autocast(context.device))
    context = replace(context, loading=loading)
    with eval_mode(encoder):
        torch.manual_seed(context.seed)
        return protocol.run(encoder, data, context)
