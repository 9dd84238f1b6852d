"""One model of a checkpoint, without the wrappers that programs put around it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from vitlab.encoders.checkpoint_io.files import StateDict, is_folder, read_checkpoint, read_folder
from vitlab.errors import InputError

# the keys under which programs keep state dicts, several of them in one file
_BRANCHES = ("student", "teacher", "model", "model_ema", "state_dict", "state_dict_ema")
_RUN = re.compile(r"objective\.(?:(?:\w+\.)*?(\w+)\.)?encoder\.(.+)")


@dataclass(frozen=True)
class CheckpointSource:
    """The tensors of one model in a file.

    Attributes:
        path: the file or folder.
        branch: the key they were kept under, such as "teacher"; "" where the file is just them.
        state: the tensors, in the names of the program that wrote them.
        spec: `class_path` and `init_args` of the encoder, where vitlab wrote the file.
        ignored: tensors of the model that are not the encoder's, and what they are.
        origin: family that the weights of an exported folder were imported from.
        is_run: whether it is a checkpoint of `vitlab fit`.
    """

    path: Path
    branch: str
    state: StateDict
    spec: dict[str, Any] | None = None
    ignored: dict[str, str] = field(default_factory=dict)
    origin: str = ""
    is_run: bool = False

    def has(self, *parts: str) -> bool:
        """Return whether the name of any tensor contains one of the parts."""
        return any(part in key for key in self.state for part in parts)

    def tensor(self, name: str, axes: int) -> Tensor:
        """Return a tensor that every vision transformer has.

        Raises:
            InputError: it is missing or has another number of axes.
        """
        found = self.state.get(name)
        if found is None or found.ndim != axes:
            what = "is missing" if found is None else f"has shape {tuple(found.shape)}"
            raise InputError(
                f"{self.path} is not a vision transformer as ViT knows it: {name} {what}. It holds "
                f"{', '.join(list(self.state)[:4])} and others; give the weights of a DINO, "
                "DINOv2, DeiT, timm or LocAtViT transformer",
                field=self.path.name,
            )
        return found


def open_source(path: Path, which: str = "") -> CheckpointSource:
    """Read a file and choose one of the models in it.

    Raises:
        InputError: the file cannot be read, holds no model, or `which` does not fit it.
    """
    if is_folder(path):
        config, state = read_folder(path)
        _choose(path, {"": state}, which)
        spec = {"class_path": config.class_path, "init_args": config.init_args}
        return CheckpointSource(path, "", state, spec, origin=config.origin)
    content = read_checkpoint(path)
    if "pytorch-lightning_version" in content:
        return _of_run(path, content, which)
    branches = {
        name: _tensors(content[name])
        for name in _BRANCHES
        if isinstance(content.get(name), Mapping) and _tensors(content[name])
    }
    branch = _choose(path, branches or {"": {}}, which)
    state = branches[branch] if branch else _tensors(content)
    if not state:
        names = ", ".join(repr(name) for name in list(content)[:6])
        raise InputError(
            f"{path} holds no tensors but {names or 'nothing'}; give a file with a model's "
            f"state_dict(), by itself or under one of {', '.join(_BRANCHES)}",
            field=path.name,
        )
    # put in front of names by DistributedDataParallel and torch.compile
    state = {re.sub(r"^(module\.|_orig_mod\.)+", "", key): value for key, value in state.items()}
    backbone = {
        key.removeprefix("backbone."): value
        for key, value in state.items()
        if key.startswith("backbone.")
    }
    heads = [key for key in state if not key.startswith("backbone.")] if backbone else []
    ignored = dict.fromkeys(heads, "head of pretraining, beside the backbone")
    return CheckpointSource(path, branch, backbone or state, ignored=ignored)


def _tensors(content: Mapping) -> StateDict:
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _choose(path: Path, branches: Mapping[str, StateDict], which: str) -> str:
    names = [name for name in branches if name]
    if which:
        if which not in names:
            remedy = f"choose one of {', '.join(names)}" if names else "leave it out"
            holds = f"the models {', '.join(names)}" if names else "one model without a name"
            raise InputError(
                f"which={which!r} does not fit {path}, which holds {holds}; {remedy}",
                field="--which",
            )
        return which
    if len(names) > 1:
        raise InputError(
            f"{path} holds several models: {', '.join(names)}; choose one with "
            f"which={names[-1]!r}, on the command line --which {names[-1]}",
            field="--which",
        )
    return next(iter(branches))


def _of_run(path: Path, content: Mapping, which: str) -> CheckpointSource:
    """Return an encoder of a run of `vitlab fit`."""
    branches: dict[str, StateDict] = {}
    for key, value in _tensors(content["state_dict"]).items():
        if match := _RUN.fullmatch(key):
            branches.setdefault(match[1] or "", {})[match[2]] = value
    objective = content.get("hyper_parameters", {}).get("objective") or {}
    spec = objective.get("init_args", {}).get("encoder") or {}
    if not branches or "class_path" not in spec:
        raise InputError(
            f"{path} is a checkpoint of Lightning, but not of a `vitlab fit`; give the best.ckpt "
            "or last.ckpt of such a run",
            field=path.name,
        )
    branch = _choose(path, branches, which)
    spec = {"class_path": spec["class_path"], "init_args": dict(spec.get("init_args") or {})}
    return CheckpointSource(path, branch, branches[branch], spec, is_run=True)
