"""What configs of `vitlab fit` describe, without the rest of a run."""

from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from vitlab.config_safety import check_config, read_yaml, restrict_imports
from vitlab.encoders import Encoder


def encoder_from_config(path: Path) -> Encoder:
    """Return the encoder that a config of `vitlab fit` describes.

    Raises:
        ValueError: the file describes none, or one that cannot be made; the message says why.
        OSError: the file cannot be read.
    """
    try:
        encoder = read_yaml(path)["model"]["objective"]["init_args"]["encoder"]  # type: ignore[index]
        encoder["class_path"]  # an overlay may have init_args alone
    except (KeyError, TypeError) as error:
        reason = f"{type(error).__name__} {error}".replace("\n", " ")
        raise ValueError(
            f"{path} has no model.objective.init_args.encoder with a class_path ({reason}); give "
            "a config such as configs/dino.yaml, not one that only overlays others"
        ) from None
    check_config(encoder, path)
    restrict_imports()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Encoder, "encoder")
    try:
        return parser.instantiate_classes(parser.parse_object({"encoder": encoder})).encoder
    except ArgumentError as error:
        raise ValueError(f"the encoder in {path}: {error}") from None
