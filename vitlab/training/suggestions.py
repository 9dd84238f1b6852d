"""Unknown keys of the command line and of configs, answered with the nearest known one."""

import inspect
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from vitlab.config_safety import flat, options_of, read_yaml
from vitlab.data import Transform, VisionDataModule
from vitlab.data.datamodule import subclasses
from vitlab.encoders import Encoder
from vitlab.errors import InputError, did_you_mean, nearest
from vitlab.objectives import Objective

# words of other programs for keys of ours, by section
SYNONYMS = {
    "model.optimizer": {
        **dict.fromkeys(("rate", "learning_rate", "base_lr"), "lr"),
        **dict.fromkeys(("final_rate", "final_lr", "end_lr"), "min_lr"),
        **dict.fromkeys(("decay", "wd"), "weight_decay"),
        **dict.fromkeys(("clip", "clip_grad", "max_norm", "gradient_clip_val"), "clip_grad_norm"),
        **dict.fromkeys(("warmup", "lr_warmup_epochs"), "warmup_epochs"),
        **dict.fromkeys(("schedule", "scheduler", "course"), "lr_schedule"),
        **dict.fromkeys(("kind", "opt", "type"), "name"),
    },
    "data": {
        **dict.fromkeys(("batch_size", "batch", "train_batch_size"), "global_batch_size"),
        **dict.fromkeys(("device_batch", "per_device_batch_size"), "micro_batch_size"),
        **dict.fromkeys(("workers", "n_workers"), "num_workers"),
        **dict.fromkeys(("views", "transforms", "augmentation"), "transform"),
        **dict.fromkeys(("path", "dir", "data_dir"), "root"),
    },
}

SECTIONS = ("trainer", "model", "data", "probing", "validation", "checkpoint", "collapse_monitor")
# what the class of a key is a subclass of
BASES = {
    "model.objective": Objective,
    "encoder": Encoder,
    "data": VisionDataModule,
    "transform": Transform,
}


def check_keys(words: Sequence[str], defaults: Namespace) -> None:
    """Refuse unknown keys, naming the nearest one.

    Args:
        words: the command line behind `fit`.
        defaults: of the parser; sections whose class is chosen by the config have none.

    Raises:
        InputError: an unknown key; the field is the key.
    """
    given: list[tuple[str, object]] = []
    for option, value in options_of(words):
        if option in ("--config", "-c") and Path(value).is_file():
            given += flat(read_yaml(Path(value)))
        elif option.startswith("--"):
            given.append((option[2:].rstrip("+"), value))
    for key, setting in given:
        _check_class(key.removesuffix(".class_path"), setting)
        key = key.replace(".init_args.", ".")
        top = key.partition(".")[0].replace("-", "_")
        if top not in (*vars(defaults), "help", "print_config"):
            raise InputError(
                f"there is no {key}; {did_you_mean(top, vars(defaults))}The sections are "
                f"{', '.join(SECTIONS)}",
                field=key,
            )
        section, _, name = key.rpartition(".")
        known = defaults.get(section) if section else None
        names = list(vars(known)) if isinstance(known, Namespace) else []
        if name in (*names, "help", "class_path"):
            continue
        use = SYNONYMS.get(section, {}).get(name) or next(iter(nearest(name, names)), "")
        if names or use:
            remedy = f"use {section}.{use}" if use else f"{section} has {', '.join(names)}"
            raise InputError(f"there is no {key}; {remedy}", field=key)


def _check_class(key: str, value: object) -> None:
    """Refuse the name of a class that does not exist; import paths are left to the parser."""
    base = BASES.get(key) or BASES.get(key.rpartition(".")[2] if "." in key else "")
    if base is None or not isinstance(value, str) or not value.isidentifier():
        return
    concrete = [each for each in subclasses(base) if not inspect.isabstract(each)]
    known = {each.__name__ for each in concrete if ".analysis." not in each.__module__}
    if value not in known:
        raise InputError(
            f"{key}: there is no class {value}; {did_you_mean(value, known)}There are "
            f"{', '.join(sorted(known))}; name one of your own by its import path",
            field=key,
        )
