"""Evaluate one encoder by one protocol on one dataset."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

from vitlab.data import VisionDataModule
from vitlab.data.profile import check_scores
from vitlab.data.transforms import IGNORE_INDEX
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.evaluation.protocol import EvaluationContext, Outcome, Protocol
from vitlab.probes.features import eval_mode
from vitlab.probes.metrics import IoUCounts


def check(encoder: Encoder, protocol: Protocol, data: VisionDataModule) -> list[str]:
    """Refuse, before any long work, what cannot be evaluated, or what would mean nothing.

    Returns:
        What makes the score poor, in sentences.

    Raises:
        InputError: an encoder, a protocol and data that do not fit.
    """
    dense, name = protocol.task == "segmentation", data.dataset_name
    train = protocol.train_split or data.train_split
    for split in (train, data.val_split):
        samples = data.samples(split)
        labels = samples.masks if dense else samples.labels
        if labels is None:
            kind, other = ("masks", "knn") if dense else ("image labels", "dinov2-linear")
            raise InputError(
                f"this protocol needs {kind}, which split {split!r} of {name} does not have; "
                f"choose other data, or another protocol, such as {other} (--list shows all)",
                field="--protocol",
            )
        values = [value for value in data.mask_values.values() if value != IGNORE_INDEX]
        highest = max(values, default=-1) if dense else int(labels.max())
        if highest >= data.num_classes:
            raise InputError(
                f"split {split!r} of {name} holds class {highest}, but it names "
                f"{data.num_classes} classes; name all of them",
                field="data",
            )
    data.refuse_leak(train)
    if data.max_unreadable:
        raise InputError(
            f"max_unreadable is {data.max_unreadable}, but a test set with replaced images is "
            "another test set; set data.max_unreadable to 0",
            field="data.max_unreadable",
        )
    remarks = check_scores(data, train, protocol.learns_void)
    protocol.check(encoder, data)
    return remarks


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
        InputError: an encoder, a protocol and data that do not fit, or no label to score on.
    """
    check(encoder, protocol, data)
    encoder.to(context.device)
    bf16 = partial(torch.autocast, context.device.type, torch.bfloat16)
    precision = bf16 if protocol.precision == "bf16" else nullcontext
    context = replace(context, loading=replace(context.loading, precision=precision))
    with eval_mode(encoder):
        torch.manual_seed(context.seed)
        outcome = protocol.run(encoder, data, context)
    if isinstance(outcome.counts, IoUCounts) and not outcome.counts.truth.any():
        raise InputError(
            f"all pixels of all {len(outcome.counts)} scored masks of split {data.val_split!r} of "
            f"{data.dataset_name} are void, so there is no score; check the masks with "
            "`vitlab data check`, or score other or more images",
            field="data",
        )
    return outcome
