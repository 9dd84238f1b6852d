"""What the protocols of trained heads share: what their state is known by, and their outcome."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from vitlab.data import Data
from vitlab.encoders import Encoder
from vitlab.evaluation.fingerprint import (
    digest,
    fingerprint_of_data,
    fingerprint_of_heads,
    sampled_contents,
)
from vitlab.evaluation.protocol import Outcome, Protocol
from vitlab.probes.evidence import Evidence
from vitlab.probes.fitting import Fitting
from vitlab.probes.training import keys_of

Counts = TypeVar("Counts", bound=Evidence)


@dataclass(frozen=True)
class Tested(Generic[Counts]):
    """What a head was found to know.

    Attributes:
        evidence: of its predictions.
        finite: whether all its logits were; otherwise predictions mean nothing.
    """

    evidence: Counts
    finite: bool

    @property
    def value(self) -> float:
        """The score in percent; NaN for a head that has diverged."""
        return self.evidence.value if self.finite else math.nan


def key_of_heads(encoder: Encoder, protocol: Protocol, data: Data, train: str, seed: int) -> str:
    """Return sha256 over all that trained heads and their choice come from.

    Args:
        encoder: its class, arguments and weights count.
        protocol: all its settings count.
        data: names, labels and sampled contents of both splits count.
        train: split that is learned from.
        seed: of everything random.
    """
    rest = {
        "settings": repr(keys_of(protocol)),
        "data": [fingerprint_of_data(data, split) for split in (train, data.val)],
        "files": [sampled_contents(data, split) for split in (train, data.val)],
        "seed": seed,
    }
    return fingerprint_of_heads(encoder, data.samples(train), digest(rest))


def head_of_headline(found: Mapping[str, Tested], fitting: Fitting) -> str:
    """Return the name of the head that is quoted: the chosen one, or the first.

    Raises:
        ValueError: it has diverged.
    """
    heads = fitting.heads
    head = fitting.chosen if heads.recipe.select != "last" else heads.names[0]
    if not found[head].finite:
        raise ValueError(
            f"the head of the headline ({head}) has diverged: its logits are not finite; give "
            "smaller learning rates as protocol.recipe.rates"
        )
    return head


def outcome_of(score: str, head: str, found: Mapping[str, Tested], fitting: Fitting) -> Outcome:
    """Return what was found, with the head of the headline in front.

    Args:
        score: what heads are scored by.
        head: of the headline.
        found: of every head on the test images, by its name.
        fitting: that made them.
    """
    select = fitting.heads.recipe.select
    scores = {name: tested.value for name, tested in found.items()}
    tried = scores if select == "last" else fitting.tried
    several = len(tried) > 1
    chosen = head if select == "last" else fitting.label(head)
    return Outcome(
        headline=score,
        scores={score: scores[head], **{f"{score}/{name}": s for name, s in scores.items()}},
        evidence=found[head].evidence,
        tried=tried,
        chosen=chosen if several else "",
        chosen_on=select if several and select != "last" else "",
    )
