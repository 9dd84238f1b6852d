"""Measurement of encoders side by side on the same images: `vitlab analyze` as a function."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from vitlab.analysis.images import Images
from vitlab.analysis.measures.engine import (
    MEASURES,
    WHY_ABSENT,
    WITH_MASKS,
    MeasureEngine,
    blocks_of,
)
from vitlab.analysis.results import AnalysisResults, Array, ModelInfo, Omission, Row, table
from vitlab.atomic_io import environment
from vitlab.data import Loader, normalize
from vitlab.encoders import Encoder
from vitlab.errors import InputError
from vitlab.probes import InferenceConfig
from vitlab.progress import track


class NamedEncoder(NamedTuple):
    """An encoder in evaluation mode, for images normalized by ImageNet's statistics, and its name.

    Attention is measured of ViTs alone.
    """

    encoder: Encoder
    info: ModelInfo


def name_encoder(
    encoder: Encoder,
    label: str,
    weights: str = "",
    hash_: str = "",
    config: dict[str, Any] | None = None,
) -> NamedEncoder:
    """Return an encoder with its description, see `ModelInfo`; its own `config` by default."""
    blocks = blocks_of(encoder)
    if config is None:
        config = {key: str(value) for key, value in getattr(encoder, "config", {}).items()}
    info = ModelInfo(
        label=label,
        weights=weights,
        hash=hash_,
        config=config,
        depth=max(encoder.count_blocks(), 1),
        heads=blocks[0].attn.num_heads if blocks else 0,
        patch_size=encoder.patch_size,
        num_registers=int(config.get("num_registers", 0)),
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
    )
    return NamedEncoder(encoder, info)


def analyze(
    encoders: Sequence[NamedEncoder], images: Images, inference: InferenceConfig
) -> AnalysisResults:
    """Measure encoders, one after the other, on the same images; progress is on standard error.

    Args:
        encoders: with different labels.
        images: all of one size.
        inference: device, images of a pass (fewer where attention would take much memory), loading
            processes, and precision of the forward pass; measures are in fp32.

    Raises:
        InputError: features are not finite.
    """
    found = [each for encoder in encoders for each in _measure(encoder, images, inference)]
    return AnalysisResults(
        data=images.about,
        models=[each.info for each in encoders],
        measures=MEASURES,
        rows=table((each for each in found if isinstance(each, Row)), Row),
        arrays=table((each for each in found if isinstance(each, Array)), Array),
        left_out=list(_omissions(encoders, images, found)),
        environment=environment(),
    )


def _measure(
    named: NamedEncoder, images: Images, inference: InferenceConfig
) -> Iterator[Row | Array]:
    """Yield the numbers of one encoder."""
    device, label = inference.device, named.info.label
    encoder = named.encoder.to(device).eval()
    engine = MeasureEngine(encoder, len(images), inference.precision)
    loader = Loader(images.pairs, inference.batch_size, num_workers=inference.num_workers)
    try:
        for pixels, objects in track(loader, f"measures of {label}"):
            step = engine.max_batch_size(pixels.shape[2], device)
            for part, masks in zip(pixels.split(step), objects.split(step), strict=True):
                part, masks = part.to(device), masks.to(device)
                engine.update(normalize(part), masks if images.masks else None)
    except InputError as error:
        raise InputError(f"{label}: {error}", field=error.field) from error
    finally:
        encoder.cpu()
    yield from engine.compute(label)


def _omissions(
    encoders: Sequence[NamedEncoder], images: Images, found: Sequence[Row | Array]
) -> Iterator[Omission]:
    """Yield what was not measured: of all models, then of single ones."""
    possible = [name for name in WHY_ABSENT if images.masks or name not in WITH_MASKS]
    if not images.masks:
        masked = ", ".join(["foreground", "background", *WITH_MASKS])
        yield Omission("", masked, images.why_no_masks)
    known = {(each.model, each.measure) for each in found}
    for label in (each.info.label for each in encoders):
        absent: dict[str, list[str]] = defaultdict(list)
        for name in possible:
            if (label, name) not in known:
                why = "" if name in WITH_MASKS else WHY_ABSENT[name]
                absent[why or "defined for none of the images"].append(name)
        for reason, names in absent.items():
            yield Omission(label, ", ".join(names), reason)
