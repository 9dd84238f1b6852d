"""Weights of any known origin into our encoder."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from vitlab.encoders.checkpoint_io.deit import DEIT, DEIT3
from vitlab.encoders.checkpoint_io.dino import DINO
from vitlab.encoders.checkpoint_io.dinov2 import DINOV2
from vitlab.encoders.checkpoint_io.family import Family, Weights, get
from vitlab.encoders.checkpoint_io.files import StateDict, is_folder, origin_of, read_folder
from vitlab.encoders.checkpoint_io.locatvit import LOCATVIT
from vitlab.encoders.checkpoint_io.report import REMEDY, LoadReport, few
from vitlab.encoders.checkpoint_io.source import Source, open_source
from vitlab.encoders.checkpoint_io.timm import TIMM
from vitlab.encoders.checkpoint_io.vitlab import VITLAB, arguments, backbone_settings
from vitlab.encoders.prompted_vit import PromptedViT, backbone_of
from vitlab.encoders.prompts import Prompts
from vitlab.encoders.tokens import Grid
from vitlab.encoders.vit import ViT, resample

FAMILIES = {f.name: f for f in (DINO, DINOV2, DEIT, DEIT3, TIMM, LOCATVIT, VITLAB)}
FamilyName = Literal["auto", "dino", "dinov2", "deit", "deit3", "timm", "locatvit", "vitlab"]


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder with the weights of a file.

    Attributes:
        encoder: in evaluation mode, on the CPU.
        report: what became of each tensor.
        family: whose weights they are.
        branch: which model of the file, such as "teacher"; "" if it had no name.
        origin: the family; of a folder that vitlab made of other weights, theirs.
    """

    encoder: ViT | PromptedViT
    report: LoadReport
    family: str
    branch: str
    origin: str

    @property
    def vit(self) -> ViT:
        """The encoder, for what can use a ViT alone.

        Raises:
            ValueError: it has prompts.
        """
        if isinstance(self.encoder, PromptedViT):
            raise ValueError(
                "the weights are those of prompts beside a frozen backbone, and a ViT alone is "
                "needed here; give the backbone's own file"
            )
        return self.encoder


def load_pretrained(
    path: str | Path,
    family: FamilyName = "auto",
    which: str = "",
    img_size: int = 0,
    partial: bool = False,
    into: ViT | None = None,
    backbone: str | Path = "",
) -> LoadedEncoder:
    """Read the weights of an encoder, whoever wrote them.

    Nothing in the file is run, no random number is drawn from the global stream, and weights
    become fp32. Mean and standard deviation of the images are not in such files: all families
    here but some of timm's and LocAtViT's (mean and deviation 0.5) are trained with ImageNet's.

    Args:
        path: a .pth, .pt, .ckpt or .safetensors file, or a folder that `export` wrote.
        family: whose weights they are; "auto" where the tensors show it. Files of DINO, DeiT and
            timm can be alike to the name, and differ in how positions are resampled.
        which: the model to take where a file holds several: student, teacher, model_ema ...
        img_size: pixels of the image edge to make the encoder for; 0 for that of the weights. Other
            positions are resampled by the family's own rule.
        partial: whether tensors may be missing, which then keep their start, or unused.
        into: an encoder to fill, maybe with options that the weights lack: the copies of
            `CLSSpecialization` start from the plain layers, all else that is new counts as missing.
            It is changed in place, and keeps its own grid and rule for positions.
        backbone: of a run of prompts, the file that the prompts were learned beside, where it is no
            longer where the run had it.

    Returns:
        The encoder and a report on every tensor.

    Raises:
        ValueError: the file cannot be used, or does not cover the encoder: what was given, what
            is allowed, and what to do.
    """
    if into is not None and img_size:
        raise ValueError(
            f"img_size={img_size} is asked for an encoder that has its own, "
            f"{into.config['img_size']}; leave img_size out, or make the encoder for it"
        )
    source = open_source(Path(path), which)
    chosen = _recognize(source, family)
    if source.backbone is not None:
        return _beside_backbone(source, backbone, alone=into is None and not img_size)
    if backbone:
        raise ValueError(
            f"backbone {backbone} is asked for {path}, which is no run of prompts and has its own; "
            "leave it out"
        )
    weights = chosen.convert(source)
    encoder = into or build(
        {**weights.config, **({"img_size": img_size} if img_size else {})}, source.path
    )
    state, report = _cover(backbone_of(encoder), weights, source)
    if not report.full and not partial:
        raise ValueError(
            f"{path}, read as {chosen.name}, does not cover the encoder: {report}. {REMEDY}"
        )
    backbone_of(encoder).load_state_dict(state, strict=False)
    origin = origin_of(source.path) if is_folder(source.path) else chosen.name
    return LoadedEncoder(encoder.eval(), report, chosen.name, source.branch, origin)


def _beside_backbone(source: Source, moved: str | Path, alone: bool) -> LoadedEncoder:
    """Read the prompts of a run, and the backbone from the file that the run named.

    Args:
        source: the run.
        moved: where the backbone is now; "" for where the run had it.
        alone: whether no other encoder and no other size is asked for.
    """
    if not alone:
        raise ValueError(
            f"{source.path} holds prompts, which were learned beside one backbone of one size; "
            "leave img_size and into out"
        )
    given = backbone_settings(source, moved)
    prompts = arguments(source.config or {}).get("prompts") or Prompts()
    with torch.random.fork_rng(devices=[]):
        encoder = PromptedViT(load_pretrained(**given).vit, prompts)
    try:
        encoder.load_state_dict(source.state)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{source.path}, beside {given['path']}: {error}") from error
    report = LoadReport(tuple(encoder.backbone.state_dict()))
    return LoadedEncoder(encoder.eval(), report, VITLAB.name, source.branch, VITLAB.name)


def load(path: str | Path) -> ViT | PromptedViT:
    """Read back an encoder from a folder that `export` wrote, exactly.

    Args:
        path: the folder, with `config.json` and `model.safetensors`.

    Returns:
        The encoder, in evaluation mode, with the same bits and dtypes.

    Raises:
        ValueError: the folder is not of this kind, is damaged, or its tensors are not those of
            its config.
    """
    path = Path(path)
    if not is_folder(path):
        raise ValueError(
            f"{path} is not a folder with config.json that vitlab exported; for other weights use "
            "vitlab.encoders.load_pretrained"
        )
    config, state = read_folder(path)
    encoder = build(arguments(config), path)
    report = _cover(
        backbone_of(encoder), Weights(state, config, {}), Source(path, "", state, config)
    )[1]
    if not report.full or report.resized:
        raise ValueError(f"the tensors in {path} are not those of its config: {report}")
    # not the file's memory, which would follow the file
    own = {key: value.clone() for key, value in state.items()}
    backbone_of(encoder).load_state_dict(own, assign=True)
    return encoder.eval()


def build(config: dict, path: Path) -> ViT | PromptedViT:
    """Make the ViT of these arguments, with its prompts; leave the random stream alone.

    Raises:
        ValueError: an argument is unknown or out of range.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            plain = {name: value for name, value in config.items() if name != "prompts"}
            encoder = ViT(**plain)
            return PromptedViT(encoder, config["prompts"]) if "prompts" in config else encoder
        except (TypeError, KeyError) as error:
            raise ValueError(
                f"{path} describes an encoder that this version of vitlab cannot make: {error}; "
                "read it with the version that wrote it"
            ) from error


def _recognize(source: Source, family: FamilyName) -> Family:
    if source.config is None:
        for name, axes in (("patch_embed.proj.weight", 4), ("pos_embed", 3)):
            get(source, source.state, name, axes)
    fitting = [name for name, each in FAMILIES.items() if each.fits(source)]
    if family == "auto":
        if len(fitting) == 1:
            return FAMILIES[fitting[0]]
        why = (
            f"could be of {' or '.join(fitting)}, which differ in how positions are resampled"
            if fitting
            else f"is of no family known here ({few(source.state)})"
        )
        raise ValueError(
            f"{source.path} {why}; name one with family: {', '.join(fitting or FAMILIES)}"
        )
    if family not in FAMILIES:
        raise ValueError(f"family {family!r} is unknown; choose auto or {', '.join(FAMILIES)}")
    if family == "vitlab" and family not in fitting:
        raise ValueError(
            f"{source.path} is neither a checkpoint of `vitlab fit` nor a folder that `export` "
            "wrote; weights of others are read by their family, and imported before they are "
            "exported"
        )
    if fitting and family not in fitting:
        raise ValueError(
            f"family={family!r} is asked of {source.path}, whose tensors are those of "
            f"{' or '.join(fitting)}; give family={fitting[0]!r}, or another file"
        )
    return FAMILIES[family]


def _cover(encoder: ViT, weights: Weights, source: Source) -> tuple[StateDict, LoadReport]:
    """Return what to load into the encoder, and the report on it."""
    wanted, given = encoder.state_dict(), dict(weights.state)
    resized = _resize(given, encoder.grid, weights)
    copied = []
    for key in wanted:
        plain = re.sub(r"_cls(?=\.)", "", key)
        if key not in given and plain in given:
            given[key] = given[plain]
            copied.append(key)
    if copied and encoder.config["cls_specialization"].init == "random":
        raise ValueError(
            f"{source.path} lacks the copies for [CLS], and cls_specialization.init random would "
            "give them other weights than the plain layers have; use init clone to begin with those"
        )
    shapes = [
        f"{key} {tuple(given[key].shape)} in place of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if shapes:
        raise ValueError(
            f"{source.path} is of another size than the encoder ({encoder.config['size']}, "
            f"patch {encoder.patch_size}): {few(shapes)}. Give weights of this size"
        )
    report = LoadReport(
        matched=tuple(key for key in wanted if key in given and key not in copied),
        resized=resized,
        copied=tuple(copied),
        missing_keys=tuple(key for key in wanted if key not in given),
        unexpected_keys=tuple(key for key in given if key not in wanted),
        left_out={**source.left_out, **weights.left_out},
    )
    return {key: given[key] for key in wanted if key in given}, report


def _resize(state: StateDict, grid: Grid, weights: Weights) -> tuple[str, ...]:
    """Resample the positions in place by the family's rule; return their name if so."""
    table = state.get("pos_embed")
    if table is None or table.ndim != 3:
        return ()
    count = table.shape[1] - 1
    # what is no square grid is left to the comparison of shapes
    edge = round(count**0.5)
    if edge**2 != count or (edge, edge) == grid or not edge:
        return ()
    patches = resample(table[:, 1:].float(), (edge, edge), grid, weights.rule)
    state["pos_embed"] = torch.cat([table[:, :1].float(), patches], dim=1)
    return ("pos_embed",)
