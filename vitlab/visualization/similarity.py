"""How alike the patches of an image are to one of them.

Axis letters: p patches, d width.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def similarity(patches: Float[Tensor, "p d"], index: int) -> Float[Tensor, " p"]:
    """Return the cosine of each patch with one of them, in [-1, 1]; of one that is 0, it is 0."""
    unit = F.normalize(patches.double().cpu(), dim=1)
    return (unit @ unit[index]).clamp(-1, 1).float()
