"""Encoders from weights of any known family."""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch

from vitlab.config_safety import check_config
from vitlab.encoders.checkpoint_io.families import FAMILIES, OWN, recognize
from vitlab.encoders.checkpoint_io.files import (
    CheckpointSource,
    ModelChoiceError,
    few,
    is_folder,
    open_source,
)
from vitlab.encoders.checkpoint_io.match import LoadReport, match
from vitlab.encoders.encoder import Encoder
from vitlab.encoders.prompted_vit import PromptedViT, backbone_of
from vitlab.encoders.vit import ViT
from vitlab.errors import InputError
from vitlab.option_types import FamilyName

# what a class that is missing, or arguments that do not fit it, raise
_UNMAKEABLE = (TypeError, KeyError, ImportError, AttributeError, ValueError, RuntimeError)


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
        partial: whether tensors may be unexpected, and biases missing; with `into` any tensor.
        into: an encoder to fill in place, maybe with options that the weights lack: the copies of
            `CLSSpecialization` get the plain layers, tensors of other options count as missing. It
            keeps its own grid and `pos_interpolation`.
        backbone: of a run of prompts, the file of the backbone, where it has moved since.

    Raises:
        InputError: the file cannot be read, is of another family or size, or lacks tensors.
    """
    if into is not None and img_size:
        raise InputError(
            f"img_size={img_size} conflicts with that of the encoder to fill, "
            f"{into.config['img_size']}; leave img_size out, or make the encoder for it",
            field="img_size",
        )
    source, name = _open(Path(path), which, family)
    spec = source.spec or {}
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
            "architecture, or allow it with partial (`vitlab import --partial`)",
            field="path",
        )
    if into is None:
        _refuse_half(report, converted, resized=bool(img_size) or name != OWN)
    backbone_of(encoder).load_state_dict(state, strict=False)
    return LoadedEncoder(encoder.eval(), report, name, source.branch, source.origin or name)


def _open(path: Path, which: str, family: FamilyName) -> tuple[CheckpointSource, str]:
    """Return a source and its family; a refusal names all that is to be given."""
    try:
        source = open_source(path, which)
    except ModelChoiceError as error:
        if which or not error.guess:
            raise
        try:
            recognize(open_source(path, error.guess[0]), family)
        except InputError as more:
            raise InputError(f"{error}. Also, {more}", field=error.field) from more
        raise
    return source, recognize(source, family)


def _refuse_half(report: LoadReport, source: CheckpointSource, resized: bool) -> None:
    """Refuse an encoder with random tensors or, unless `resized`, with resampled positions."""
    # the initial value of a bias is 0, which is what a layer without one computes
    if drawn := [key for key in report.missing_keys if not key.endswith(".bias")]:
        raise InputError(
            f"{source.path} lacks {few(drawn)}, which would be random, as would every number; "
            "partial allows what a file has beyond the encoder. To train from these weights, fill "
            "an encoder with them (into)",
            field="path",
        )
    if report.resized and not resized:
        raise InputError(
            f"the positions in {source.path} are not of the img_size of its config; export it "
            "again, or ask for another size with img_size",
            field=source.path.name,
        )


def _load_prompts(source: CheckpointSource, moved: str | Path, alone: bool) -> LoadedEncoder:
    """Read the prompts of a run, and the backbone from the file that it names, or from `moved`.

    `alone` is whether neither another encoder nor another size is asked for.
    """
    if not alone:
        raise InputError(
            f"{source.path} holds prompts, which were learned with one backbone of one size; "
            "leave img_size and into out",
            field="img_size",
        )
    arguments = _without_none((source.spec or {})["init_args"])
    given = _without_none((arguments.pop("backbone", None) or {}).get("init_args"))
    if not given.get("path"):
        raise InputError(
            f"{source.path} holds prompts, and names no file of the backbone that they were "
            "learned with; train with backbone Pretrained",
            field="backbone",
        )
    path = Path(moved or given["path"])
    if not path.exists():
        raise InputError(
            f"{source.path} holds prompts without their backbone, which the run read from "
            f"{given['path']}; there is no {path.absolute()}. Give its new place as backbone, on "
            "the command line --backbone FILE",
            field="--backbone",
        )
    if isinstance(into := given.get("into"), dict):
        given["into"] = build(into, source.path)
    if moved and is_folder(path):  # which needs no family and has one model
        given = {name: given[name] for name in given if name not in ("family", "which")}
    arguments["backbone"] = load_pretrained(**{**given, "path": path}).vit
    spec = {"class_path": "vitlab.encoders.PromptedViT", "init_args": arguments}
    encoder = build(spec, source.path)
    assert isinstance(encoder, PromptedViT)
    try:
        encoder.load_state_dict(source.state)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{source.path}, with {path}: {error}", field="--backbone") from error
    report = LoadReport(tuple(encoder.backbone.state_dict()))
    return LoadedEncoder(encoder.eval(), report, OWN, source.branch, OWN)


def _without_none(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (arguments or {}).items() if value is not None}


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


def build(spec: Mapping[str, Any], path: Path) -> Encoder:
    """Make an encoder from `class_path` and `init_args`; leave the random stream as it is.

    Raises:
        InputError: the class is not allowed, missing or no encoder, or an argument is unknown.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            kind = import_class(str(spec["class_path"]), path)
            if not issubclass(kind, Encoder):  # before anything is built
                raise TypeError(f"{spec['class_path']} is no Encoder")
            encoder = _value(spec, None, path)
        except InputError as error:
            raise InputError(f"{path}: {error}", field=error.field) from error
        except _UNMAKEABLE as error:
            raise InputError(
                f"{path} describes an encoder that this version of vitlab cannot make: {error}; "
                "read it with the version that wrote it",
                field=path.name,
            ) from error
    return encoder


def import_class(name: str, path: Path) -> type:
    """Import a class by its dotted name; a bare name is one of `vitlab.encoders`.

    Raises:
        InputError: the class is of a package that is not allowed.
        TypeError: it is no class.
    """
    check_config({"class_path": name}, path)
    module, _, name = name.rpartition(".")
    found = getattr(importlib.import_module(module or "vitlab.encoders"), name)
    if not inspect.isclass(found):
        raise TypeError(f"{name} is no class")
    return found


def _value(value: Any, hint: Any, path: Path) -> Any:
    """Return a value of a spec as its annotation has it: dictionaries become dataclasses."""
    if not isinstance(value, Mapping):
        return value
    if "class_path" in value:
        kind = import_class(value["class_path"], path)
        arguments = value.get("init_args") or {}
        hints = get_type_hints(inspect.getattr_static(kind, "__init__"))
    else:
        kinds = [each for each in (hint, *get_args(hint)) if inspect.isclass(each)]
        kind = next(filter(is_dataclass, kinds), dict)
        arguments, hints = value, {} if kind is dict else get_type_hints(kind)
    return kind(**{name: _value(each, hints.get(name), path) for name, each in arguments.items()})
