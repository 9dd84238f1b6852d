"""Report of prompt tuning: tuned encoders and the linear probe of the same frozen backbone.

The first arm is the reference of the others: `PromptTuning` with no prompts. An arm with several
checkpoints, one for each seed, is shown as mean ± deviation. The file of the backbone must lie
where the run had it.

Axis letters: b images, p patches, n tokens, m prompts, k all keys, h heads.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from vitlab.data import VisionDataModule, normalize
from vitlab.encoders import PromptedViT, load_pretrained, record
from vitlab.encoders.checkpoint_io import read_checkpoint
from vitlab.errors import InputError
from vitlab.objectives.classification import Classifier
from vitlab.visualization.colors import Key, categorical_colors
from vitlab.visualization.grid import GridColumn, ImageGrid

BATCH, PICTURES = 64, 6
*COLORS, OTHERS = categorical_colors(8)  # gray is for all further entries


def load_prompted(path: Path) -> Classifier:
    """Load prompts and classifier of a run of prompt tuning, with its backbone.

    Raises:
        InputError: the file is of another kind of run, or its backbone has changed.
    """
    encoder = load_pretrained(path).encoder
    if not isinstance(encoder, PromptedViT) or path.is_dir():
        raise InputError(
            f"{path} holds no prompts with a classifier; give the last.ckpt of a run of "
            "configs/prompts_*.yaml, for the linear probe one without prompts "
            "(model.objective.encoder.prompts)",
            field="arms",
        )
    start = "objective.model.head."
    head = {
        name.removeprefix(start): tensor
        for name, tensor in read_checkpoint(path)["state_dict"].items()
        if name.startswith(start)
    }
    with torch.random.fork_rng(devices=[]):
        model = Classifier(encoder, len(head["bias"]))
    model.head.load_state_dict(head)
    return model.eval()


class PromptScores(NamedTuple):
    """Scores of one checkpoint."""

    top1: float  # percent
    loss: float  # cross-entropy, nats
    trained: int  # parameters that its run trained
    macs: int  # multiply-adds of one image, those of attention included


@torch.no_grad()
def score(model: Classifier, data: VisionDataModule, size: int, crop: float) -> PromptScores:
    """Return the scores on all val images, in fp32."""
    correct = loss = count = 0.0
    images = data.classification_dataset(data.val_split, size, crop=crop)
    for pixels, labels in DataLoader(images, BATCH, generator=torch.Generator()):
        logits = model(normalize(pixels))
        correct += (logits.argmax(-1) == labels).sum().item()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        count += len(labels)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return PromptScores(100 * correct / count, loss / count, trained, count_macs(model, size))


@torch.no_grad()
def count_macs(model: Classifier, size: int) -> int:
    """Return the multiply-adds of one image; attention is written out, so that it is counted."""
    counter = FlopCounterMode(display=False)
    with record(model.encoder, "attn.weights"), sdpa_kernel(SDPBackend.MATH), counter:
        model(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() // 2


def compare_arms(arms: dict[str, list[PromptScores]]) -> str:
    """Return a Markdown table; arms with as many seeds as the first are compared in pairs."""
    first = next(iter(arms.values()))
    rows = {}
    for name, runs in arms.items():
        over = "-"
        if len(runs) == len(first):
            over = _spread([a.top1 - b.top1 for a, b in zip(runs, first, strict=True)], "+.1f")
        macs = f"{100 * (runs[0].macs / first[0].macs - 1):+.1f} %"
        rows[name] = {
            "seeds": len(runs),
            "top-1 %": _spread([run.top1 for run in runs], ".1f"),
            "over first": "" if runs is first else over,
            "loss": _spread([run.loss for run in runs], ".3f"),
            "trained": f"{runs[0].trained:,}",
            "GMAC": f"{runs[0].macs / 1e9:.4g}",
            "MACs over first": "" if runs is first else macs,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm").astype(str)
    return table.to_markdown(disable_numparse=True) + "\n"


def _spread(values: Sequence[float], form: str) -> str:
    """Return mean and, for several, the sample's standard deviation."""
    found = pd.Series(values)
    mean = format(found.mean(), form)
    return mean if len(found) < 2 else f"{mean} ± {format(found.std(), form.lstrip('+'))}"


@torch.no_grad()
def preferred_entries(
    model: Classifier, images: Float[Tensor, "b 3 h w"]
) -> tuple[str, list[Int[Tensor, "b p"]]]:
    """Return the entry that each patch prefers in each block; none without prompts of patches.

    Returns:
        "nearest key" where there are keys, else "read most", by the largest weight, mean of heads;
        indices within the patches' pool, or within all prompts of an encoder without one.
    """
    encoder = model.encoder
    assert isinstance(encoder, PromptedViT)
    settings, pool = encoder.prompts, encoder.prompts.patches
    if not settings.shared + pool.size:
        return "", []
    with record(encoder, "prompts.patches.chosen" if pool.top_k else "attn.weights") as kept:
        patches = encoder(images).patches.shape[1]
    if pool.top_k:
        return "nearest key", [chosen[..., 0] for chosen in kept]
    own = slice(settings.shared)
    if pool.size:
        own = slice(settings.count - pool.prompts, settings.count)
    means = (weights[:, :, -patches:, own].mean(1) for weights in kept)
    return "read most", [each.argmax(-1) // pool.length for each in means]


def color_entries(
    title: str, entries: Int[Tensor, "b p"], grid: tuple[int, int], size: int
) -> GridColumn:
    """Return pictures of one block: a color for each of its most frequent entries, and a legend."""
    counts = entries.flatten().bincount()
    order = counts.argsort(descending=True, stable=True)[: counts.count_nonzero()].tolist()
    share = [100 * int(counts[entry]) / entries.numel() for entry in order]
    canvas = torch.tensor(OTHERS).expand(*entries.shape, 3).clone()
    legend = []
    for color, entry, part in zip(COLORS, order, share, strict=False):
        canvas[entries == entry] = torch.tensor(color)
        legend.append(Key(color, f"entry {entry}: {part:.0f} %"))
    if rest := order[len(COLORS) :]:
        legend.append(Key(OTHERS, f"{len(rest)} others: {sum(share[len(COLORS) :]):.0f} %"))
    maps = canvas.unflatten(1, grid).permute(0, 3, 1, 2)
    return GridColumn(title, list(F.interpolate(maps, size=(size, size), mode="nearest")), legend)


def save_preferred_entries(
    models: dict[str, Classifier], data: VisionDataModule, size: int, crop: float, out: Path
) -> None:
    """Write images and the preferred entries of their patches in the first, middle and last block.

    No file is written where no model has prompts of patches.
    """
    images = data.classification_dataset(data.val_split, size, crop=crop)
    chosen = range(0, len(images), max(1, len(images) // PICTURES))[:PICTURES]
    pixels = torch.stack([images[index][0] for index in chosen])
    columns = [GridColumn("image", list(pixels / 255), smooth=True)]
    for name, model in models.items():
        how, entries = preferred_entries(model, normalize(pixels))
        side = size // model.encoder.patch_size
        for block in sorted({0, len(entries) // 2, len(entries) - 1}) if entries else ():
            title = f"{name}, block {block + 1}\n{how}"
            columns.append(color_entries(title, entries[block], (side, side), size))
    if len(columns) > 1:
        ImageGrid(columns).save(out)


def write_prompt_report(
    arms: dict[str, list[Path]], data: VisionDataModule, size: int, crop: float, out: Path
) -> str:
    """Write OUT.md, and pictures of the first run of each arm with prompts; return the table.

    Args:
        arms: checkpoints by name, one for each seed; the first is the linear probe.
        data: its val images are scored.
        size: pixels of the image edge.
        crop: share of an image's short side, as in the runs.
        out: the files to write, without ending.
    """
    models = {name: [load_prompted(path) for path in paths] for name, paths in arms.items()}
    for model in (each for several in models.values() for each in several):
        model.encoder.check_img_size(size, "--size")
    out.parent.mkdir(parents=True, exist_ok=True)
    scores = {name: [score(each, data, size, crop) for each in own] for name, own in models.items()}
    text = compare_arms(scores)
    out.with_name(f"{out.name}.md").write_text(text)
    firsts = {name: several[0] for name, several in models.items()}
    save_preferred_entries(firsts, data, size, crop, out)
    return text
