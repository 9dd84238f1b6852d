"""Integrity of a checkpoint file: checksums, and nothing but tensors and plain values."""

import pickle
import re
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError

from vitlab.errors import InputError


def check_readable(checkpoint: Path) -> int:
    """Refuse a checkpoint that is damaged, or holds anything but tensors and plain values.

    Its records carry checksums (CRC-32), which torch itself does not compare.

    Returns:
        The optimizer steps that it has taken.

    Raises:
        InputError: the file is damaged, or holds more than that.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            # as torch never writes it, and would take one marked as a folder to be empty
            if any(record.compress_type or record.external_attr for record in archive.infolist()):
                raise RuntimeError("its index is damaged")
            record = archive.testzip()
        if record:
            raise RuntimeError(f"its record {record} differs from its checksum")
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    except (
        *(RuntimeError, EOFError, OSError, pickle.UnpicklingError, zipfile.BadZipFile),
        *(ValueError, NotImplementedError, KeyError),  # of the archive's index
        SafetensorError,  # which torch reads by the ending of the name
    ) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(error, pickle.UnpicklingError):  # torch's words advise to run it
            found = re.search(r"GLOBAL (\S+)", str(error))
            reason = f"reading it would run {found[1]}" if found else "it holds more than values"
        raise InputError(
            f"the checkpoint {checkpoint} cannot be read safely: {reason}; it is damaged or from "
            "elsewhere. Continue from another one, such as best.ckpt",
            field="--ckpt_path",
        ) from error
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        raise InputError(
            f"{checkpoint} is not a checkpoint of `vitlab fit`, whose runs are all that "
            "--ckpt_path can continue",
            field="--ckpt_path",
        )
    return int(content["global_step"])
