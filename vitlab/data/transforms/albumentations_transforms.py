"""Pipelines of albumentations, given in a config."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from vitlab.data.transforms.segmentation import (
    ImageAndMask,
    Mask,
    SegmentationTransform,
    as_tensors,
    check_agreement,
)
from vitlab.data.transforms.transform import Pixels, Seed, Stack, Transform, check_sizes, stack_of
from vitlab.errors import InputError


class AlbumentationsCrop(Transform):
    """One view of an image by a pipeline of albumentations.

    Args:
        pipeline: a file that `albumentations.save` has written, JSON or YAML. Its last transform
            gives 8-bit RGB of `size` by `size` pixels; normalization follows on the device.
        size: edge of the view, in pixels.
    """

    def __init__(self, pipeline: str, size: int = 224):
        check_sizes(size=size)
        self.pipeline, self.size = _load(pipeline), size

    def __call__(self, image: Pixels, seed: Seed = 0) -> list[Stack]:
        """The view of an RGB image."""
        found = _run(self.pipeline, seed, image=image)["image"]
        if found.shape != (self.size, self.size, 3) or found.dtype != np.uint8:
            raise InputError(
                f"the pipeline gives {found.dtype} of shape {found.shape}; end it with a crop or "
                f"resize to {self.size} x {self.size}, without Normalize and ToTensorV2",
                field="pipeline",
            )
        return [stack_of(np.ascontiguousarray(found)[None])]


class AlbumentationsSegmentation(SegmentationTransform):
    """One view of an image and its mask by a pipeline of albumentations.

    Args:
        pipeline: a file that `albumentations.save` has written, JSON or YAML. Fill masks with 255,
            which is ignored, where a transform moves in something from outside.
    """

    def __init__(self, pipeline: str):
        self.pipeline = _load(pipeline)

    def __call__(self, image: Pixels, mask: Mask, seed: Seed = 0) -> ImageAndMask:
        """The view of image and mask."""
        check_agreement(image, mask)
        found = _run(self.pipeline, seed, image=image, mask=mask)
        return as_tensors(found["image"], found["mask"])


def _load(file: str) -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else the import asks a server for a newer one
    import albumentations

    try:
        form = "yaml" if Path(file).suffix in (".yaml", ".yml") else "json"
        return albumentations.Compose([albumentations.load(file, data_format=form)])
    except Exception as error:  # of the file, the parser or a transform's arguments
        raise InputError(
            f"{file} is no pipeline of albumentations ({error}); write it with albumentations.save",
            field="pipeline",
        ) from error


def _run(pipeline: Any, seed: Seed, **given: np.ndarray) -> dict[str, np.ndarray]:
    pipeline.set_random_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    return pipeline(**given)
