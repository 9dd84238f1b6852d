"""Unknown keys of the command line and of configs, answered with the nearest known one."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from jsonargparse import Namespace

from vitlab.config_safety import flat, read_yaml
from vitlab.errors import InputError

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


def check_keys(words: Sequence[str], defaults: Namespace) -> None:
    """Refuse unknown keys, naming the nearest one.

    Args:
        words: the command line behind `fit`.
        defaults: of the parser; sections whose class is chosen by the config have none.

    Raises:
        InputError: an unknown key; the field is the key.
    """
    keys: list[str] = []
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        value = value if equals else "".join(words[place + 1 : place + 2])
        if option in ("--config", "-c") and Path(value).is_file():
            keys += [key for key, _ in flat(read_yaml(Path(value)))]
        elif option.startswith("--"):
            keys.append(option[2:].rstrip("+"))
    for key in (key.replace(".init_args.", ".") for key in keys):
        section, _, name = key.rpartition(".")
        known = defaults.get(section) if section else None
        names = list(vars(known)) if isinstance(known, Namespace) else []
        if name in (*names, "help", "class_path"):
            continue
        close = [each for each in names if each.startswith(name)] + get_close_matches(name, names)
        nearest = SYNONYMS.get(section, {}).get(name) or next(iter(close), "")
        if names or nearest:
            remedy = f"use {section}.{nearest}" if nearest else f"{section} has {', '.join(names)}"
            raise InputError(f"there is no {key}; {remedy}", field=key)
