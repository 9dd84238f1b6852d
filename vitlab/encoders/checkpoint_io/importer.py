"""Encoders from weights of any known family."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vitlab.encoders.checkpoint_io.build import build, import_class
from vitlab.encoders.checkpoint_io.deit import DEIT, DEIT3
from vitlab.encoders.checkpoint_io.dino import DINO
from vitlab.encoders.checkpoint_io.dinov2 import DINOV2
from vitlab.encoders.checkpoint_io.files import is_folder
from vitlab.encoders.checkpoint_io.locatvit import LOCATVIT
from vitlab.encoders.checkpoint_io.match import match
from vitlab.encoders.checkpoint_io.report import LoadReport, few
from vitlab.encoders.checkpoint_io.source import CheckpointSource, open_source
from vitlab.encoders.checkpoint_io.timm import TIMM
from vitlab.encoders.encoder import Encoder
from vitlab.encoders.prompted_vit import PromptedViT, backbone_of
from vitlab.encoders.vit import ViT
from vitlab.errors import InputError

FAMILIES = {family.name: family for family in (DINO, DINOV2, DEIT, DEIT3, TIMM, LOCATVIT)}
FamilyName = Literal["auto", "dino", "dinov2", "deit", "deit3", "timm", "locatvit", "vitlab"]
OWN = "vitlab"  # checkpoints of `vitlab fit` and exported folders, which name every option


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder with the weights of a file.

    Attributes:
        encoder: in evaluation mode, on the CPU.
        report: what became of each tensor.
        family: of the file.
        branch: which model of the file, such as "teacher"; "" if it had no name.
        origin: the family of the weights; of an exported folder, that of the imported file.
    """

    encoder: Encoder
    report: LoadReport
    family: str
    branch: str
    origin: str

    @property
    def vit(self) -> ViT:
        """The encoder, where a plain ViT is needed.

        Raises:
            InputError: it has prompts, or is of another class.
        """
        if not isinstance(self.encoder, ViT):
            raise InputError(
                f"the weights are of a {type(self.encoder).__name__}, and a ViT alone is needed "
                "here; of prompts, give the backbone's own file",
                field="path",
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
    """Read the weights of an encoder of any known family.

    No code in the file is run, no global random number is drawn; weights become fp32. All families
    but some of timm's and LocAtViT's (mean and deviation 0.5) use ImageNet's mean and deviation.

    Args:
        path: a .pth, .pt, .ckpt or .safetensors file, or a folder that `export` wrote.
        family: of the weights; "auto" where the tensors show it.
        which: the model to take where a file holds several: student, teacher, model_ema, ...
        img_size: pixels of the image edge to make the encoder for; 0 for that of the weights.
            Positions are resampled by the family's own rule.
        partial: whether tensors may be missing (they keep their initial values) or unexpected.
        into: an encoder to fill in place, maybe with options that the weights lack: the copies of
            `CLSSpecialization` get the plain layers, tensors of other options count as missing. It
            keeps its own grid and `pos_interpolation`.
        backbone: of a run of prompts, the file of the backbone, where it has moved since.

    Raises:
        InputError: the file cannot be read, is of another family or size, or does not cover the
            encoder.
    """
    if into is not None and img_size:
        raise InputError(
            f"img_size={img_size} conflicts with that of the encoder to fill, "
            f"{into.config['img_size']}; leave img_size out, or make the encoder for it",
            field="img_size",
        )
    source = open_source(Path(path), which)
    name = recognize(source, family)
    spec: dict[str, Any] = source.spec or {}
    if source.is_run and issubclass(import_class(spec["class_path"], source.path), PromptedViT):
        return _load_prompts(source, backbone, alone=into is None and not img_size)
    if backbone:
        raise InputError(
            f"backbone {backbone} has no effect: {path} is no run of prompts; leave it out",
            field="backbone",
        )
    converted = source if name == OWN else FAMILIES[name].convert(source)
    spec = converted.spec or {}
    if img_size:
        spec = {**spec, "init_args": {**spec["init_args"], "img_size": img_size}}
    encoder = build(spec, source.path) if into is None else into
    state, report = match(encoder, converted)
    if not report.full and not partial:
        raise InputError(
            f"{path}, read as {name}, does not cover the encoder: {report}. Give weights of this "
            "architecture, or allow it with partial=True",
            field="path",
        )
    backbone_of(encoder).load_state_dict(state, strict=False)
    return LoadedEncoder(encoder.eval(), report, name, source.branch, source.origin or name)


def _load_prompts(source: CheckpointSource, moved: str | Path, alone: bool) -> LoadedEncoder:
    """Read the prompts of a run, and the backbone from the file that it names, or from `moved`.

    `alone` is whether neither another encoder nor another size is asked for.
    """
    arguments = (source.spec or {})["init_args"]
    arguments = {name: value for name, value in arguments.items() if value is not None}
    if not alone:
        raise InputError(
            f"{source.path} holds prompts, which were learned with one backbone of one size; "
            "leave img_size and into out",
            field="img_size",
        )
    given = dict((arguments.pop("backbone", None) or {}).get("init_args") or {})
    given = {name: value for name, value in given.items() if value is not None}
    if not given.get("path"):
        raise InputError(
            f"{source.path} holds prompts, and names no file of the backbone that they were "
            "learned with; train with backbone Pretrained",
            field="backbone",
        )
    path = Path(moved or given["path"])
    if not path.exists():
        where = "" if path.is_absolute() else f" below {Path.cwd()}"
        raise InputError(
            f"{source.path} holds prompts without their backbone, which the run read from "
            f"{given['path']}; there is no {path}{where}. Give its new place as backbone, on the "
            "command line --backbone FILE",
            field="--backbone",
        )
    if isinstance(into := given.get("into"), dict):
        given["into"] = build(into, source.path)
    if moved and is_folder(path):  # which needs no family and has one model
        given = {name: given[name] for name in given if name not in ("family", "which")}
    spec = {"class_path": "vitlab.encoders.PromptedViT", "init_args": arguments}
    vit = load_pretrained(**{**given, "path": path}).vit
    encoder = build({**spec, "init_args": {**arguments, "backbone": vit}}, source.path)
    assert isinstance(encoder, PromptedViT)
    try:
        encoder.load_state_dict(source.state)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{source.path}, with {path}: {error}", field="--backbone") from error
    report = LoadReport(tuple(encoder.backbone.state_dict()))
    return LoadedEncoder(encoder.eval(), report, OWN, source.branch, OWN)


def load(path: str | Path) -> Encoder:
    """Read a folder that `save` wrote, in evaluation mode: the same bits and dtypes.

    Raises:
        InputError: the folder is of another kind or damaged, or its tensors are not those of its
            config.
    """
    path = Path(path)
    if not is_folder(path):
        raise InputError(
            f"{path} is not a folder with config.json that vitlab exported; for other weights use "
            "vitlab.encoders.load_pretrained",
            field="path",
        )
    source = open_source(path)
    encoder = build(source.spec or {}, path)
    report = match(encoder, source)[1]
    if not report.full or report.resized:
        raise InputError(
            f"the tensors in {path} are not those of its config: {report}", field=path.name
        )
    # not the file's memory, which would follow the file
    own = {key: value.clone() for key, value in source.state.items()}
    backbone_of(encoder).load_state_dict(own, assign=True)
    return encoder.eval()


def recognize(source: CheckpointSource, family: FamilyName) -> str:
    """Return the family of a source.

    Raises:
        InputError: it is not `family`, or `family` is "auto" and several fit.
    """
    if source.spec is not None:
        fitting = [OWN]
    else:
        source.tensor("patch_embed.proj.weight", 4), source.tensor("pos_embed", 3)
        fitting = [name for name, each in FAMILIES.items() if each.fits(source)]
    if family == "auto":
        if len(fitting) == 1:
            return fitting[0]
        why = (
            f"could be of {' or '.join(fitting)}, which differ in how positions are resampled"
            if fitting
            else f"is of no family known here ({few(source.state)})"
        )
        names = ", ".join(fitting or FAMILIES)
        raise InputError(f"{source.path} {why}; name one with family: {names}", field="--family")
    if family == OWN and OWN not in fitting:
        raise InputError(
            f"{source.path} is neither a checkpoint of `vitlab fit` nor a folder that `export` "
            "wrote; weights of others are read by their family, and imported before they are "
            "exported",
            field="--family",
        )
    if fitting and family not in fitting:
        raise InputError(
            f"family={family!r} does not fit {source.path}, whose tensors are those of "
            f"{' or '.join(fitting)}; give family={fitting[0]!r}, or another file",
            field="--family",
        )
    return family
