"""What a file offers: the tensors of one model, out of the wrappings that programs put around."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from vitlab.encoders.checkpoint_io.files import StateDict, is_folder, read, read_folder

# the keys under which programs keep state dicts, several of them in one file
_BRANCHES = ("student", "teacher", "model", "model_ema", "state_dict", "state_dict_ema")
_HEAD = "head of pretraining, beside the backbone"
_RUN = re.compile(r"objective\.(?:(?:\w+\.)*?(\w+)\.)?encoder\.(.+)")


@dataclass(frozen=True)
class Source:
    """The tensors of one model in a file, as yet in the names of whoever wrote it.

    Attributes:
        path: the file or folder.
        branch: the key they were kept under, such as "teacher"; "" where the file is just them.
        state: the tensors.
        config: arguments of the encoder, where vitlab wrote the file.
        left_out: tensors of the model that are not the encoder's, and what they are.
        backbone: of a run of prompts, which keeps neither its tensors nor its options: arguments of
            `vitlab.objectives.Pretrained`, which read them.
    """

    path: Path
    branch: str
    state: StateDict
    config: dict | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    backbone: dict | None = None


def open_source(path: Path, which: str = "") -> Source:
    """Read a file and choose one of the models in it.

    Args:
        path: a checkpoint, or a folder that vitlab exported.
        which: the model, such as "student" or "teacher"; must be said if there are several, and
            cannot be if there is one without a name.

    Raises:
        ValueError: the file cannot be read, holds no model, or which does not fit it.
    """
    if is_folder(path):
        config, state = read_folder(path)
        _choose(path, {"": state}, which)
        return Source(path, "", state, config)
    content = read(path)
    if "pytorch-lightning_version" in content:
        return _of_run(path, content, which)
    branches = {
        name: _tensors(content[name])
        for name in _BRANCHES
        if isinstance(content.get(name), Mapping) and _tensors(content[name])
    }
    branch = _choose(path, branches or {"": _tensors(content)}, which)
    state = branches[branch] if branch else _tensors(content)
    if not state:
        names = ", ".join(repr(name) for name in list(content)[:6])
        raise ValueError(
            f"{path} holds no tensors but {names or 'nothing'}; give a file with a model's "
            f"state_dict(), by itself or under one of {', '.join(_BRANCHES)}"
        )
    # put in front of names by DistributedDataParallel and torch.compile
    state = {re.sub(r"^(module\.|_orig_mod\.)+", "", key): value for key, value in state.items()}
    backbone = {
        key.removeprefix("backbone."): value
        for key, value in state.items()
        if key.startswith("backbone.")
    }
    left_out = {key: _HEAD for key in state if not key.startswith("backbone.")}
    return Source(path, branch, backbone or state, left_out=left_out if backbone else {})


def _tensors(content: Mapping) -> StateDict:
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _choose(path: Path, branches: Mapping[str, StateDict], which: str) -> str:
    names = [name for name in branches if name]
    if which:
        if which not in names:
            remedy = f"choose one of {', '.join(names)}" if names else "leave it out"
            holds = f"the models {', '.join(names)}" if names else "one model without a name"
            raise ValueError(f"which={which!r} is asked of {path}, which holds {holds}; {remedy}")
        return which
    if len(names) > 1:
        raise ValueError(
            f"{path} holds several models: {', '.join(names)}; choose one with "
            f"which={names[-1]!r}, on the command line --which {names[-1]}"
        )
    return next(iter(branches))


def _of_run(path: Path, content: Mapping, which: str) -> Source:
    """Return an encoder of a run of `vitlab fit`."""
    branches: dict[str, StateDict] = {}
    for key, value in _tensors(content["state_dict"]).items():
        if found := _RUN.fullmatch(key):
            branches.setdefault(found[1] or "", {})[found[2]] = value
    objective = content.get("hyper_parameters", {}).get("objective", {})
    encoder = objective.get("init_args", {}).get("encoder", {}) if objective else {}
    kind = str(encoder.get("class_path", "")).rpartition(".")[2]
    if not branches or kind not in ("ViT", "PromptedViT"):
        raise ValueError(
            f"{path} is a checkpoint of Lightning, but not of a `vitlab fit` of a ViT"
            f"{f' ({kind})' if kind else ''}; give the best.ckpt or last.ckpt of such a run"
        )
    branch = _choose(path, branches, which)
    arguments = dict(encoder.get("init_args", {}))
    backbone = None
    if kind == "PromptedViT":
        backbone = dict((arguments.pop("backbone", None) or {}).get("init_args", {}))
    return Source(path, branch, branches[branch], arguments, backbone=backbone)
