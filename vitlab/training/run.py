"""The folder of a run: one for each, never overwritten, with all that made it."""

import pickle
from collections.abc import Sequence
from pathlib import Path

import torch

LAST = "last.ckpt"
RESULTS = "results.json"


def default_folder(configs: Sequence[str], seed: int) -> Path:
    """Return where a run goes unless told: runs/NAME_OF_CONFIGS/seedN."""
    names = [Path(config).stem for config in configs] or ["unnamed"]
    return Path("runs") / "-".join(names) / f"seed{seed}"


def starting_point(folder: Path, ckpt_path: str | None) -> Path | None:
    """Find the checkpoint to continue from, and refuse to overwrite a run.

    Args:
        folder: of the run.
        ckpt_path: "last" for the folder's own last checkpoint, a file, or None for a new run.

    Returns:
        The checkpoint to continue from; None for a new run.

    Raises:
        ValueError: the folder holds a run already, or the checkpoint does not exist.
    """
    if ckpt_path:
        path = folder / LAST if ckpt_path == "last" else Path(ckpt_path)
        if not path.is_file():
            raise ValueError(
                f"there is no checkpoint {path}; --ckpt_path takes 'last' (the run's own, in "
                f"{folder}) or a file. Leave it out to start anew"
            )
        check_readable(path)
        if path.resolve().parent != folder.resolve() and (folder / LAST).exists():
            raise ValueError(
                f"{folder} already holds another run; choose a new folder with --run DIR"
            )
        if (folder / RESULTS).exists():
            raise ValueError(
                f"the run in {folder} is finished; continue from its checkpoint with another "
                "--run DIR and more --trainer.max_epochs"
            )
    elif (folder / RESULTS).exists():
        raise ValueError(
            f"{folder} already holds a finished run, which is never overwritten; choose another "
            "folder with --run DIR or another --seed_everything"
        )
    elif (folder / LAST).exists():
        raise ValueError(
            f"{folder} already holds an unfinished run; continue it with --ckpt_path last, or "
            "choose another folder with --run DIR or another --seed_everything"
        )
    elif _foreign(folder):
        raise ValueError(
            f"{folder} holds other files; choose an empty or new folder with --run DIR"
        )
    return path if ckpt_path else None


def _foreign(folder: Path) -> bool:
    """Whether the folder holds more than a run that ended before its first checkpoint."""
    return folder.exists() and any(folder.iterdir()) and not (folder / "config.yaml").exists()


def check_readable(checkpoint: Path) -> None:
    """Refuse a checkpoint that is damaged, or holds anything but tensors and plain values.

    Raises:
        ValueError: what is wrong with the file, and what to do.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"the checkpoint {checkpoint} cannot be read safely: {reason}; it is damaged or from "
            "elsewhere. Continue from another one, such as best.ckpt"
        ) from error
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        raise ValueError(
            f"{checkpoint} is not a checkpoint of `vitlab fit`, whose runs are all that "
            "--ckpt_path can continue"
        )
