"""Evaluate one encoder by one protocol on one dataset."""

from dataclasses import replace

import torch

from vitlab.data import VisionDataModule
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.ignore_index import check_labels
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Protocol
from vitlab.probes.eval_mode import eval_mode


def check(encoder: Encoder, protocol: Protocol, data: VisionDataModule) -> None:
    """Refuse, before any long work, what cannot be evaluated.

    Raises:
        InputError: an encoder, a protocol and data that do not fit.
    """
    for split in (data.train_split, data.val_split):
        samples = data.samples(split)
        missing = samples.labels if protocol.task == "classification" else samples.masks
        if missing is None:
            kind = "image labels" if protocol.task == "classification" else "masks"
            raise InputError(
                f"{type(protocol).__name__} needs {kind}, which split {split!r} of "
                f"{type(data).__name__} does not have; choose other data or another protocol",
                field="--protocol",
            )
    if data.max_unreadable:
        raise InputError(
            f"max_unreadable is {data.max_unreadable}, but a test set with replaced images is "
            "another test set; set data.max_unreadable to 0",
            field="data.max_unreadable",
        )
    if protocol.task == "segmentation":
        check_labels(data, data.val_split)
    protocol.check(encoder, data)


def evaluate(
    encoder: Encoder, protocol: Protocol, data: VisionDataModule, context: EvaluationContext
) -> Outcome:
    """Evaluate an encoder; the same figure on any number of ranks, batch size and workers.

    Args:
        encoder: is frozen meanwhile, and moved to the context's device.
        protocol: all that decides the number.
        data: a dataset with the labels or masks that the protocol needs.
        context: where and how fast.

    Raises:
        InputError: an encoder, a protocol and data that do not fit.
    """
    check(encoder, protocol, data)
    encoder.to(context.device)
    loading = replace(context.loading, precision=lambda: protocol.autocast(context.device))
    context = replace(context, loading=loading)
    with eval_mode(encoder):
        torch.manual_seed(context.seed)
        return protocol.run(encoder, data, context)
