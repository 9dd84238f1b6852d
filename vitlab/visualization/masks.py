"""Class masks as images: predicted, true, and where the two differ."""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Int, UInt8
from matplotlib.colors import to_rgb
from torch import Tensor

from vitlab.data.transforms import IGNORE_INDEX
from vitlab.encoders import Encoder, Tokens
from vitlab.probes import InferenceConfig
from vitlab.probes.dense import patch_logits, upsample
from vitlab.probes.logistic import LinearClassifier
from vitlab.visualization.colors import (
    LINE_COLORS,
    Key,
    Mask,
    apply_palette,
    attention_image,
    attention_keys,
    class_keys,
)
from vitlab.visualization.features import CLS, PatchMatrix, extract_block_features
from vitlab.visualization.grid import GridColumn, ImageGrid
from vitlab.visualization.pca import pca_colors

# Okabe and Ito's blue and vermillion; void is as pale as in VOC's palette
RIGHT, WRONG = map(to_rgb, LINE_COLORS[:2])
VOID = (224 / 255, 224 / 255, 192 / 255)


def compare_masks(
    images: Sequence[UInt8[Tensor, "3 _ _"]],
    truths: Sequence[Mask],
    predictions: Sequence[Mask],
    classes: Sequence[str],
) -> ImageGrid:
    """Return a grid with a row for each image: image, truth, prediction, errors; and a legend.

    Masks hold the class of each pixel, of the size of the image; 255 is void in the truth.
    """
    errors = []
    for image, truth, prediction in zip(images, truths, predictions, strict=True):
        assert image.shape[1:] == truth.shape == prediction.shape, "a mask has its image's size"
        state = (prediction != truth).long().masked_fill(truth == IGNORE_INDEX, 2)
        errors.append(apply_palette(state, [RIGHT, WRONG, VOID]))
    columns = [
        GridColumn("image", [image / 255 for image in images], smooth=True),
        GridColumn("truth", [apply_palette(mask) for mask in truths]),
        GridColumn("prediction", [apply_palette(mask) for mask in predictions]),
        GridColumn("errors", errors),
    ]
    states = [Key(RIGHT, "right"), Key(WRONG, "wrong"), Key(VOID, "void")]
    return ImageGrid(columns, keys=[*states, *class_keys([*truths, *predictions], classes)])


def predict_masks(
    classify: LinearClassifier, tokens: Tokens, size: tuple[int, int]
) -> list[Int[Tensor, "_ _"]]:
    """Return the class of each pixel of images, at that size."""
    return list(upsample(patch_logits(classify, tokens), size).argmax(1).cpu())


def draw_probe_grid(
    encoder: Encoder,
    loading: InferenceConfig,
    images: UInt8[Tensor, "b 3 height width"],
    masks: Sequence[Mask],
    classify: LinearClassifier,
    classes: Sequence[str] = (),
) -> ImageGrid:
    """Return a row for each image: image, PCA, [CLS] attention, predicted and true mask.

    The encoder is in evaluation mode; without attention weights that column is left out. Masks may
    have any size. Without names of classes there is no legend.
    """
    size = (images.shape[2], images.shape[3])
    (features,) = extract_block_features(encoder, images, loading, queries=[CLS] * len(images))
    tokens = features.tokens
    attention = [] if features.attention is None else list(features.attention.mean(1))
    predictions = predict_masks(classify, tokens, size)
    truths = [F.interpolate(each[None, None].float(), size)[0, 0].long() for each in masks]
    (colors,) = pca_colors([PatchMatrix.from_tokens([tokens])])
    maps = [attention_image(each, tokens.grid) for each in attention]
    columns = [
        GridColumn("image", list(images / 255), smooth=True),
        GridColumn("PCA of patches", colors),
        *([GridColumn("[CLS] attention", maps, attention_keys(attention))] if attention else []),
        GridColumn("predicted mask", [apply_palette(mask) for mask in predictions]),
        GridColumn("true mask", [apply_palette(mask) for mask in truths]),
    ]
    return ImageGrid(columns, keys=class_keys([*predictions, *truths], classes))
