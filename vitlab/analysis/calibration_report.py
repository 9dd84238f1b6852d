"""Report of a calibration: scores of classifiers side by side, and relevance of their tokens.

The first classifier is the one before calibration (arXiv:2304.04354): foreground and class masks
are its own.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from vitlab.analysis.report.plots import plot_maps
from vitlab.data import VisionDataModule, normalize
from vitlab.data.batch import Batch
from vitlab.objectives.calibration.classifier_checkpoint import (
    ClassifierCheckpoint,
    load_classifier,
)
from vitlab.objectives.calibration.relevance import (
    ClassMasks,
    compute_class_masks,
    dimension_relevance,
    foreground,
    received,
    record_stream,
    token_relevance,
)
from vitlab.objectives.calibration.terms import off_share
from vitlab.objectives.classification import Classifier
from vitlab.visualization.grid import GridColumn, ImageGrid
from vitlab.visualization.plots import plot_style, save

BATCH, THRESHOLD, PICTURES = 64, 0.15, 6
MAX_NAMES = 60  # classes at most for their names to fit
COLUMNS = ("top-1 %", "loss", "background %", "relevance", "off rule %", "parameters")


class Explanation(NamedTuple):
    """Logits of a batch, and the relevance of tokens and dimensions for the class of each image."""

    logits: Float[Tensor, "b c"]
    tokens: Float[Tensor, "b p"]  # relevance that the last block takes from each patch
    foreground: Bool[Tensor, "b p"]  # of this classifier, from all blocks
    dimensions: Float[Tensor, "b m"]  # relevance of those of [CLS] inside the last MLP


def explain(
    model: Classifier, images: Float[Tensor, "b 3 h w"], labels: Int[Tensor, " b"]
) -> Explanation:
    """Explain a classifier in evaluation mode on normalized images."""
    with torch.enable_grad(), record_stream(model) as stream:
        logits = model(images.detach().requires_grad_())
    blocks = range(len(stream.states))
    found = [r.detach() for r in token_relevance(stream, labels, blocks, graph=False)]
    tokens = received(found[-1], stream.grid)
    dimensions = dimension_relevance(stream, labels, "hidden", graph=False).detach()
    objects = foreground(found, stream.grid, THRESHOLD)
    return Explanation(logits.detach(), tokens, objects, dimensions)


def scores(
    model: Classifier, before: Classifier, masks: ClassMasks, batches: Iterator[Batch]
) -> dict[str, float]:
    """Return a row of the table: sums over images, shares of the relevance of all images.

    Background is outside the foreground of the model before calibration, in images that it
    classifies correctly.
    """
    correct = loss = count = relevance = 0.0
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for batch in batches:
        images, labels = batch.views[0][0], batch.labels
        assert labels is not None
        ours, first = explain(model, images, labels), explain(before, images, labels)
        known = first.logits.argmax(-1) == labels
        correct += (ours.logits.argmax(-1) == labels).sum().item()
        loss += F.cross_entropy(ours.logits, labels, reduction="sum").item()
        count, relevance = count + len(labels), relevance + ours.tokens.sum().item()
        kept = masks.kept[labels]
        parts.append((ours.tokens[known], first.foreground[known], ours.dimensions, kept))
    tokens, objects, dimensions, kept = (torch.cat(part) for part in zip(*parts, strict=True))
    row = (
        100 * correct / count,
        loss / count,
        100 * off_share(tokens, objects).item(),
        relevance / count,
        100 * off_share(dimensions, kept).item(),
        sum(p.numel() for p in model.parameters()),
    )
    return dict(zip(COLUMNS, row, strict=True))


def save_relevance(models: dict[str, Classifier], batch: Batch, pixels: Tensor, out: Path) -> None:
    """Write a row for each image: the image, then each model's relevance of its patches on it."""
    assert batch.labels is not None
    columns = [GridColumn("image", list(pixels / 255), smooth=True)]
    for name, model in models.items():
        patches = [side // model.encoder.patch_size for side in pixels.shape[2:]]
        found = explain(model, batch.views[0][0], batch.labels)
        maps = found.tokens.unflatten(1, patches)[:, None]
        maps = maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-12)
        light = 0.15 + 0.85 * F.interpolate(maps, size=pixels.shape[2:], mode="nearest")
        columns.append(GridColumn(f"{name}:\nrelevance", list(pixels / 255 * light)))
    ImageGrid(columns).save(out)


def save_masks(masks: ClassMasks, classes: Sequence[str], out: Path) -> None:
    """Write a row for each class, bright where a dimension is kept."""
    names = [name.split(",")[0] for name in classes] if len(classes) <= MAX_NAMES else None
    height = 1 + (0.14 * len(classes) if names else 5)  # inches
    title = "dimensions of [CLS] in the last MLP,\nkept by the rule of each class"
    with plot_style():
        save(plot_maps({title: pd.DataFrame(masks.kept.float().numpy(), names)}, height), out)


def write_calibration_report(
    arms: dict[str, Path], data: VisionDataModule, size: int, out: Path
) -> str:
    """Write OUT.md, OUT and OUT_rules as .png, .svg and .pdf, and return the table.

    Args:
        arms: checkpoints by name; the first is the model before calibration.
        data: its training images make the class masks, its val images are scored.
        size: pixels of the image edge.
        out: the files to write, without ending.
    """
    checkpoints = {name: ClassifierCheckpoint(str(path)) for name, path in arms.items()}
    models = {name: load_classifier(each).model.eval() for name, each in checkpoints.items()}
    for model in models.values():
        model.encoder.check_img_size(size, "--size")
    out.parent.mkdir(parents=True, exist_ok=True)
    first, split = next(iter(models.values())), data.val_split

    def read(split: str, indices: Sequence[int]) -> Iterator[Batch]:
        images = Subset(data.classification_dataset(split, size), indices)
        for pixels, labels in DataLoader(images, BATCH, generator=torch.Generator()):
            yield Batch([normalize(pixels)[None]], labels)

    count = len(data.samples(data.train_split))
    masks = compute_class_masks(
        first, lambda ids: read(data.train_split, ids), count, "hidden", THRESHOLD
    )
    every = range(len(data.samples(split)))
    rows = {name: scores(each, first, masks, read(split, every)) for name, each in models.items()}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    for name in COLUMNS:
        table[name] = table[name].map(("{:,}" if name == "parameters" else "{:.4g}").format)
    text = table.to_markdown(disable_numparse=True) + "\n"
    out.with_name(f"{out.name}.md").write_text(text)
    chosen = every[:: max(1, len(every) // PICTURES)][:PICTURES]
    images = data.classification_dataset(split, size)
    pixels = torch.stack([images[index][0] for index in chosen])
    (batch,) = read(split, chosen)
    save_relevance(models, batch, pixels, out)
    save_masks(masks, data.classes, out.with_name(f"{out.name}_rules"))
    return text
