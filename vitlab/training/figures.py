"""Pictures of what an encoder sees.

Axis letters: b images, p patches, d width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from vitlab.data.voc import palette
from vitlab.encoders import Encoder, record
from vitlab.encoders.tokens import Tokens, prefix_length
from vitlab.probes.dense import enlarge, patch_logits
from vitlab.probes.linear import LinearMap
from vitlab.probes.probe import Loading

Picture = UInt8[Tensor, "3 _ _"]


def principal_colors(patches: Float[Tensor, "b p d"]) -> Float[Tensor, "b p 3"]:
    """Return the first three principal components of all patches together, each in [0, 1].

    One basis for all images, so that equal colors mean equal features. Signs are fixed by the
    largest loading, so that pictures of successive epochs can be compared.
    """
    x = patches.flatten(0, 1).double().cpu()
    x = x - x.mean(0)
    _, basis = torch.linalg.eigh(x.T @ x)
    basis = basis[:, -3:].flip(1)
    largest = basis.gather(0, basis.abs().argmax(0, keepdim=True))
    scores = x @ (basis * largest.sign())
    low, high = scores.quantile(torch.tensor([0.02, 0.98], dtype=x.dtype), dim=0)
    scores = ((scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return scores.float().unflatten(0, patches.shape[:2])


def cls_attention(weights: Float[Tensor, "b h n n"], tokens: Tokens) -> Float[Tensor, "b p"]:
    """Return how much [CLS] attends to each patch, mean of heads, scaled to at most 1."""
    prefix = prefix_length(weights.shape[-1], tokens.grid)
    attention = weights[:, :, 0, prefix:].float().mean(1)
    return attention / attention.amax(1, keepdim=True).clamp_min(1e-12)


@torch.no_grad()
def sheet(
    encoder: Encoder,
    loading: Loading,
    images: UInt8[Tensor, "b 3 height width"],
    masks: list[Tensor],
    classify: LinearMap,
) -> Picture:
    """Return a sheet with a row for each image: image, PCA, [CLS] attention, predicted, true mask.

    Args:
        encoder: with attention weights that can be recorded.
        loading: how images reach it.
        images: RGB.
        masks: true class of each pixel, at any size.
        classify: the fitted map of a dense probe.
    """
    size = tuple(images.shape[2:])
    with record(encoder, "attn.weights") as weights:
        tokens = loading.encode(encoder, images)
    colors = principal_colors(tokens.patches)
    attention = cls_attention(weights[-1], tokens).cpu()
    logits = patch_logits(classify, tokens)
    table = torch.from_numpy(palette()).float() / 255
    rows = []
    for index, mask in enumerate(masks):
        predicted = enlarge(logits[index], size).argmax(0).cpu()
        truth = F.interpolate(mask[None, None].float(), size=size, mode="nearest")[0, 0].long()
        panels = [
            images[index] / 255,
            _enlarged(colors[index].T.unflatten(1, tokens.grid), size),
            _enlarged(attention[index].unflatten(0, tokens.grid).expand(3, -1, -1), size),
            table[predicted].permute(2, 0, 1),
            table[truth].permute(2, 0, 1),
        ]
        rows.append(torch.cat([F.pad(panel, (1, 1, 1, 1), value=1.0) for panel in panels], dim=2))
    return (torch.cat(rows, dim=1).clamp(0, 1) * 255).round().to(torch.uint8)


def _enlarged(panel: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(panel[None], size=size, mode="nearest")[0]
