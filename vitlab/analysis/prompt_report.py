r"""What prompts changed: tuned encoders beside the linear probe of the same frozen backbone.

    python -m vitlab.analysis.prompt_report linear=LINEAR/last.ckpt tcpa=TCPA/last.ckpt \
        --data Folder --root DIR --size 224 --out report

The first arm is what prompts are compared with: `PromptTuning` with no prompts. An arm may be given
several times, once for each seed, and is then shown as mean ± deviation. The file of the backbone
must lie where the run had it.

Axis letters: b images, p patches, n tokens, m prompts, k all keys, h heads, q queries, s chosen.
"""

import argparse
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from vitlab.data import CIFAR10, CIFAR100, Folder, ImageNet, VisionDataModule, normalize
from vitlab.encoders import PromptedViT, load_pretrained, record
from vitlab.encoders.checkpoint_io.files import read
from vitlab.objectives.classification import Classifier
from vitlab.visualization.colors import categorical_colors
from vitlab.visualization.grid import GridColumn, ImageGrid

BATCH, PICTURES = 64, 6
DATA = {each.__name__: each for each in (ImageNet, Folder, CIFAR10, CIFAR100)}
COLUMNS = ("arm", "seeds", "top-1 %", "over first", "loss", "trained", "GMAC", "MACs over first")
*COLORS, OTHERS = categorical_colors(8)  # gray is for all further entries
NEAREST, READ = "nearest key", "read most"


def read_prompted(path: Path) -> Classifier:
    """Read what `vitlab fit` of a prompts config has learned, beside its backbone.

    Raises:
        ValueError: the file is of another kind of run, or its backbone is not the one it was.
    """
    encoder = load_pretrained(path).encoder
    if not isinstance(encoder, PromptedViT) or path.is_dir():
        raise ValueError(
            f"{path} holds no prompts with a classifier; give the last.ckpt of a run of "
            "configs/prompts_*.yaml, for the linear probe one without prompts "
            "(model.objective.encoder.prompts)"
        )
    start = "objective.model.head."
    head = {
        name.removeprefix(start): tensor
        for name, tensor in read(path)["state_dict"].items()
        if name.startswith(start)
    }
    with torch.random.fork_rng(devices=[]):
        model = Classifier(encoder, len(head["bias"]))
    model.head.load_state_dict(head)
    return model.eval()


@dataclass(frozen=True)
class Run:
    """Scores of one checkpoint.

    Attributes:
        top1: percent.
        loss: cross-entropy, nats.
        trained: parameters that its run trained.
        macs: multiply-adds of one image, those of attention among them.
    """

    top1: float
    loss: float
    trained: int
    macs: int


@torch.no_grad()
def score(model: Classifier, data: VisionDataModule, size: int, crop: float) -> Run:
    """Return the scores on all val images, in fp32."""
    right = loss = count = 0.0
    images = data.classification_dataset(data.val_split, size, crop=crop)
    for pixels, labels in DataLoader(images, BATCH, generator=torch.Generator()):
        logits = model(normalize(pixels))
        right += (logits.argmax(-1) == labels).sum().item()
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        count += len(labels)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Run(100 * right / count, loss / count, trained, macs(model, size))


@torch.no_grad()
def macs(model: Classifier, size: int) -> int:
    """Return the multiply-adds of one image, with attention written out so that all are seen."""
    counter = FlopCounterMode(display=False)
    with record(model.encoder, "attn.weights"), sdpa_kernel(SDPBackend.MATH), counter:
        model(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() // 2


def table(arms: dict[str, list[Run]]) -> str:
    """Return a Markdown table; where arms have as many seeds, they are compared in pairs."""
    first = next(iter(arms.values()))
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for name, runs in arms.items():
        over = "-"
        if len(runs) == len(first):
            pairs = zip(runs, first, strict=True)
            over = spread([ours.top1 - theirs.top1 for ours, theirs in pairs], "+.1f")
        cells = [
            name,
            str(len(runs)),
            spread([run.top1 for run in runs], ".1f"),
            "" if runs is first else over,
            spread([run.loss for run in runs], ".3f"),
            f"{runs[0].trained:,}",
            f"{runs[0].macs / 1e9:.4g}",
            "" if runs is first else f"{100 * (runs[0].macs / first[0].macs - 1):+.1f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float], form: str) -> str:
    """Return mean and, for several, the sample's standard deviation."""
    mean = format(statistics.mean(values), form)
    if len(values) < 2:
        return mean
    return f"{mean} ± {format(statistics.stdev(values), form.lstrip('+'))}"


@dataclass(frozen=True)
class Choice:
    """Which entry each patch prefers in one block.

    Attributes:
        entries: indices within the patches' pool, or within all prompts of a block without one.
        how: by the nearest key where there are keys, else by the largest weight, mean of heads.
    """

    entries: Int[Tensor, "b p"]
    how: str


@torch.no_grad()
def choices(model: Classifier, images: Float[Tensor, "b 3 h w"]) -> list[Choice]:
    """Return what the patches prefer in each block; nothing if they read no prompts."""
    encoder = model.encoder
    assert isinstance(encoder, PromptedViT)
    settings = encoder.prompts
    pool = settings.patches
    if not settings.shared + pool.size:
        return []
    with ExitStack() as stack:
        if pool.top_k:
            kept = stack.enter_context(record(encoder, "prompts.patches.chosen"))
        else:
            kept = stack.enter_context(record(encoder, "attn.weights"))
        tokens = model.encoder(images)
    if pool.top_k:
        return [Choice(chosen[..., 0], NEAREST) for chosen in kept]
    patches = tokens.patches.shape[1]
    own = slice(settings.count - pool.prompts, settings.count) if pool.size else slice(None)
    columns = range(settings.shared if not pool.size else settings.count)[own]
    return [
        Choice(
            weights[:, :, -patches:, columns.start : columns.stop].mean(1).argmax(-1)
            // pool.length,
            READ,
        )
        for weights in kept
    ]


def colored(choice: Choice, grid: tuple[int, int], size: int) -> GridColumn:
    """Return pictures of one block: a color for each of its most frequent entries, and a legend."""
    found, counts = choice.entries.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    frequent = [int(entry) for entry in found[order]]
    share = (100 * counts[order] / counts.sum()).tolist()
    shown = list(zip(COLORS, frequent, share, strict=False))
    canvas = torch.tensor(OTHERS).expand(*choice.entries.shape, 3).clone()
    for color, entry, _ in shown:
        canvas[choice.entries == entry] = torch.tensor(color)
    maps = canvas.unflatten(1, grid).permute(0, 3, 1, 2)
    legend = [(color, f"entry {entry}: {part:.0f} %") for color, entry, part in shown]
    if rest := len(frequent) - len(shown):
        legend.append((OTHERS, f"{rest} others: {sum(share[len(shown) :]):.0f} %"))
    return GridColumn("", list(F.interpolate(maps, size=(size, size), mode="nearest")), legend)


def picture(
    models: dict[str, Classifier], data: VisionDataModule, size: int, crop: float, out: Path
) -> bool:
    """Write images beside what their patches choose in the first, middle and last block.

    Returns:
        Whether there was any choice to show.
    """
    images = data.classification_dataset(data.val_split, size, crop=crop)
    spread_out = range(0, len(images), max(1, len(images) // PICTURES))[:PICTURES]
    pixels = torch.stack([images[index][0] for index in spread_out])
    columns = [GridColumn("image", list(pixels / 255), smooth=True)]
    for name, model in models.items():
        found = choices(model, normalize(pixels))
        for block in sorted({0, len(found) // 2, len(found) - 1}) if found else ():
            grid = (size // model.encoder.patch_size, size // model.encoder.patch_size)
            column = colored(found[block], grid, size)
            title = f"{name}, block {block + 1}\n{found[block].how}"
            columns.append(GridColumn(title, column.images, column.legend))
    if len(columns) > 1:
        ImageGrid(columns).save(out)
    return len(columns) > 1


def report(
    arms: dict[str, list[Path]], data: VisionDataModule, size: int, crop: float, out: Path
) -> str:
    """Write OUT.md and, if any arm has prompts, OUT.png of the first run of each; return the table.

    Args:
        arms: checkpoints by name, one for each seed; the first is the linear probe.
        data: whose val images are scored.
        size: pixels of the image edge.
        crop: share of an image's short side that is seen, as in the runs.
        out: the files to write, without ending.
    """
    models = {name: [read_prompted(path) for path in paths] for name, paths in arms.items()}
    for model in (each for several in models.values() for each in several):
        model.encoder.check_img_size(size, "--size")
    out.parent.mkdir(parents=True, exist_ok=True)
    shown = table(
        {
            name: [score(model, data, size, crop) for model in several]
            for name, several in models.items()
        }
    )
    out.with_name(f"{out.name}.md").write_text(shown)
    firsts = {name: several[0] for name, several in models.items()}
    picture(firsts, data, size, crop, out.with_name(f"{out.name}.png"))
    return shown


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, write the report."""
    parser = argparse.ArgumentParser(
        "python -m vitlab.analysis.prompt_report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("arms", nargs="+", help="NAME=CHECKPOINT, the linear probe first")
    parser.add_argument("--root", "--data.root", required=True, help="folder of the data")
    parser.add_argument("--data", choices=tuple(DATA), default="ImageNet")
    parser.add_argument("--size", type=int, default=224, help="pixels of the image edge")
    parser.add_argument("--crop", type=float, default=0.875, help="share of the short side seen")
    parser.add_argument("--out", type=Path, default=Path("report"), help="files, without ending")
    given = parser.parse_args(words)
    arms: dict[str, list[Path]] = {}
    for arm in given.arms:
        name, found, path = arm.partition("=")
        if not found:
            parser.error(f"{arm} is no NAME=CHECKPOINT, such as linear=RUN/last.ckpt")
        arms.setdefault(name, []).append(Path(path))
    try:
        shown = report(arms, DATA[given.data](given.root), given.size, given.crop, given.out)
    except ValueError as error:
        parser.error(str(error))
    print(shown, end="")


if __name__ == "__main__":
    main()
