"""The encoder that a config of `vitlab fit` describes, without the rest of a run."""

from pathlib import Path

from vitlab.config_files import find_config
from vitlab.config_safety import ClassParser, read_yaml
from vitlab.encoders import Encoder
from vitlab.errors import InputError


def encoder_from_config(path: Path) -> Encoder:
    """Return the encoder of a config.

    Raises:
        InputError: the file describes none, or one that cannot be made.
        OSError: the file cannot be read.
    """
    try:
        path = find_config(str(path))
        encoder = read_yaml(path)["model"]["objective"]["init_args"]["encoder"]  # type: ignore[index]
        encoder["class_path"]  # an overlay may have init_args alone
    except (KeyError, TypeError) as error:
        reason = f"{type(error).__name__} {error}".replace("\n", " ")
        raise InputError(
            f"{path} has no model.objective.init_args.encoder with a class_path ({reason}); give "
            "a config such as configs/dino.yaml, not one that only overlays others",
            field=str(path),
        ) from None
    parser = ClassParser(exit_on_error=False)
    parser.add_subclass_arguments(Encoder, "encoder")
    return parser.build({"encoder": encoder}, path, f"the encoder in {path}", str(path)).encoder
