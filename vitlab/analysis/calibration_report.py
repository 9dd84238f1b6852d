r"""What calibration changed: classifiers side by side, their scores, what their decisions rest on.

    python -m vitlab.analysis.calibration_report before=BASE/last.ckpt blank=BLANK/last.ckpt \
        tokens=TOKENS/last.ckpt --root DIR --size 224 --out report

The first is the model before calibration (arXiv:2304.04354): foreground and rules are its own.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from vitlab.data import CIFAR10, CIFAR100, Folder, ImageNet, VisionDataModule, normalize
from vitlab.data.batch import Batch
from vitlab.encoders.tokens import Grid
from vitlab.objectives.calibration.class_masks import ClassMasks, compute_class_masks
from vitlab.objectives.calibration.classifier_checkpoint import (
    ClassifierCheckpoint,
    load_classifier,
)
from vitlab.objectives.calibration.relevance import (
    dimension_relevance,
    foreground,
    received,
    record_stream,
    token_relevance,
)
from vitlab.objectives.calibration.terms import off_share
from vitlab.objectives.classification import Classifier
from vitlab.visualization.grid import GridColumn, ImageGrid

BATCH, THRESHOLD, PICTURES = 64, 0.15, 6
DATA = {each.__name__: each for each in (ImageNet, Folder, CIFAR10, CIFAR100)}
NAMED = 60  # classes at most for their names to fit
COLUMNS = ("top-1 %", "loss", "background %", "relevance", "off rule %", "parameters")


@dataclass(frozen=True)
class Look:
    """What a classifier makes of a batch.

    Attributes:
        logits: of the classes.
        tokens: what the last block takes from each patch, for the class.
        shown: foreground as this classifier has it, of all blocks.
        dimensions: relevance of those of [CLS] inside the last MLP.
        grid: rows and columns of patches.
    """

    logits: Float[Tensor, "b c"]
    tokens: Float[Tensor, "b p"]
    shown: Bool[Tensor, "b p"]
    dimensions: Float[Tensor, "b m"]
    grid: Grid


def look(model: Classifier, images: Float[Tensor, "b 3 h w"], labels: Int[Tensor, " b"]) -> Look:
    """Return what a classifier in evaluation mode makes of normalized images."""
    with torch.enable_grad(), record_stream(model) as stream:
        logits = model(images.detach().requires_grad_())
    blocks = range(len(stream.states))
    found = [r.detach() for r in token_relevance(stream, labels, blocks, graph=False)]
    dimensions = dimension_relevance(stream, labels, "hidden", graph=False)
    return Look(
        logits.detach(),
        received(found[-1], stream.grid),
        foreground(found, stream.grid, THRESHOLD),
        dimensions.detach(),
        stream.grid,
    )


def scores(
    model: Classifier, before: Classifier, rules: ClassMasks, batches: Iterator[Batch]
) -> dict[str, float]:
    """Return a row of the table: sums over images, shares of all relevance of all images.

    Background is what the model before calibration does not rest on, in images that it classifies
    correctly.
    """
    right = loss = count = relevance = 0.0
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for batch in batches:
        images, labels = batch.views[0][0], batch.labels
        assert labels is not None
        ours, first = look(model, images, labels), look(before, images, labels)
        known = first.logits.argmax(-1) == labels
        right += (ours.logits.argmax(-1) == labels).sum().item()
        loss += F.cross_entropy(ours.logits, labels, reduction="sum").item()
        count, relevance = count + len(labels), relevance + ours.tokens.sum().item()
        parts.append((ours.tokens[known], first.shown[known], ours.dimensions, rules.kept[labels]))
    tokens, shown, dimensions, kept = (torch.cat(part) for part in zip(*parts, strict=True))
    found = (
        100 * right / count,
        loss / count,
        100 * off_share(tokens, shown).item(),
        relevance / count,
        100 * off_share(dimensions, kept).item(),
        sum(p.numel() for p in model.parameters()),
    )
    return dict(zip(COLUMNS, found, strict=True))


def picture(models: dict[str, Classifier], batch: Batch, pixels: Tensor, out: Path) -> None:
    """Write a row for each image: the image, then each model's relevance of its patches on it."""
    assert batch.labels is not None
    columns = [GridColumn("image", list(pixels / 255), smooth=True)]
    for name, model in models.items():
        seen = look(model, batch.views[0][0], batch.labels)
        maps = seen.tokens.unflatten(1, seen.grid)[:, None]
        maps = maps / maps.amax((2, 3), keepdim=True).clamp_min(1e-12)
        light = F.interpolate(maps, size=pixels.shape[2:], mode="nearest")
        columns.append(
            GridColumn(f"{name}:\nrelevance", list(pixels / 255 * (0.15 + 0.85 * light)))
        )
    ImageGrid(columns).save(out)


def rule_picture(rules: ClassMasks, classes: Sequence[str], out: Path) -> None:
    """Write a row for each class, white where a dimension is kept."""
    rows, dimensions = rules.kept.shape
    named = rows <= NAMED
    size = (10, 1.2 + (0.22 * rows if named else 6))  # inches
    figure, panel = plt.subplots(figsize=size, dpi=100, layout="constrained")
    panel.imshow(rules.kept.numpy(), cmap="gray", aspect="auto", interpolation="nearest")
    panel.set_title("dimensions that the rule of each class keeps (white)", fontsize=10)
    panel.set(xlabel=f"dimension of [CLS] inside the last MLP, of {dimensions}", ylabel="class")
    if named:
        panel.set_yticks(range(rows), [name.split(",")[0] for name in classes], fontsize=8)
    figure.savefig(out)
    plt.close(figure)


def report(arms: dict[str, Path], data: VisionDataModule, size: int, out: Path) -> str:
    """Write OUT.md, OUT.png and OUT_rules.png, and return the table.

    Args:
        arms: checkpoints by name; the first is the model before calibration.
        data: whose training images make the rules and whose val images are scored.
        size: pixels of the image edge.
        out: the files to write, without ending.
    """
    models = [
        load_classifier(ClassifierCheckpoint(str(path))).model.eval() for path in arms.values()
    ]
    for model in models:
        model.encoder.check_img_size(size, "--size")
    out.parent.mkdir(parents=True, exist_ok=True)

    def read(split: str, indices: Sequence[int]) -> Iterator[Batch]:
        images = Subset(data.classification_dataset(split, size), indices)
        for pixels, labels in DataLoader(images, BATCH, generator=torch.Generator()):
            yield Batch([normalize(pixels)[None]], labels)

    count = len(data.samples(data.train_split))
    rules = compute_class_masks(
        models[0], lambda ids: read(data.train_split, ids), count, "hidden", THRESHOLD
    )
    every = range(len(data.samples(data.val_split)))
    lines = [f"| model | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]
    for name, model in zip(arms, models, strict=True):
        row = scores(model, models[0], rules, read(data.val_split, every))
        cells = [f"{v:,}" if isinstance(v, int) else f"{v:.4g}" for v in row.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    table = "\n".join(lines) + "\n"
    out.with_name(f"{out.name}.md").write_text(table)
    chosen = list(every)[:: max(1, len(every) // PICTURES)][:PICTURES]
    images = data.classification_dataset(data.val_split, size)
    pixels = torch.stack([images[index][0] for index in chosen])
    (batch,) = read(data.val_split, chosen)
    picture(dict(zip(arms, models, strict=True)), batch, pixels, out.with_name(f"{out.name}.png"))
    rule_picture(rules, data.classes, out.with_name(f"{out.name}_rules.png"))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line, write the report."""
    parser = argparse.ArgumentParser(
        "python -m vitlab.analysis.calibration_report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("arms", nargs="+", help="NAME=CHECKPOINT, the first before calibration")
    parser.add_argument("--root", required=True, help="folder of the data")
    parser.add_argument("--data", choices=tuple(DATA), default="ImageNet")
    parser.add_argument("--size", type=int, default=224, help="pixels of the image edge")
    parser.add_argument("--out", type=Path, default=Path("report"), help="files, without ending")
    given = parser.parse_args(arguments)
    if wrong := [arm for arm in given.arms if "=" not in arm]:
        parser.error(f"{wrong[0]} is no NAME=CHECKPOINT, such as before=RUN/last.ckpt")
    pairs = [arm.partition("=") for arm in given.arms]
    arms = {name: Path(path) for name, _, path in pairs}
    if len(arms) < len(pairs):
        parser.error(f"{', '.join(given.arms)} name an arm twice; give each a name of its own")
    try:
        table = report(arms, DATA[given.data](given.root), given.size, given.out)
    except ValueError as error:
        parser.error(str(error))
    print(table, end="")


if __name__ == "__main__":
    main()
