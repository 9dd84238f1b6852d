"""Load report: what became of the tensors of a file and of an encoder."""

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of a file and of an encoder.

    Attributes:
        matched: tensors of the encoder that were read.
        resized: those of them that were resampled to the encoder's grid.
        copied: tensors of the encoder that got a copy of a plain layer's, see `CLSSpecialization`.
        missing_keys: tensors of the encoder that the file lacks; they keep their initial values.
        unexpected_keys: tensors of the file that the encoder lacks.
        ignored: tensors of the file that belong to no encoder, such as classifiers, and what they
            are; they do not count against `full`.
    """

    matched: tuple[str, ...]
    resized: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    missing_keys: tuple[str, ...] = ()
    unexpected_keys: tuple[str, ...] = ()
    ignored: dict[str, str] = field(default_factory=dict)

    @property
    def full(self) -> bool:
        """Whether no key is missing and none unexpected."""
        return not self.missing_keys and not self.unexpected_keys

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} tensors read"]
        for name in ("resized", "copied", "missing_keys", "unexpected_keys"):
            if names := getattr(self, name):
                parts.append(f"{len(names)} {name.removesuffix('_keys')} ({few(names)})")
        if self.ignored:
            reasons = ", ".join(sorted(set(self.ignored.values())))
            parts.append(f"{len(self.ignored)} ignored ({reasons})")
        return "; ".join(parts)


def few(names: Iterable[str], limit: int = 4) -> str:
    """Return the first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
