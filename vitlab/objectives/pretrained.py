"""An encoder that starts from pretrained weights."""

from vitlab.encoders import ViT, load_pretrained
from vitlab.option_types import FamilyName


class Pretrained(ViT):
    """A ViT with the weights of a file that `vitlab import` can read, to be trained further.

    A class and not a function, as jsonargparse 4 cannot use a function below an objective that
    takes an argument from the data. A run's checkpoints contain the ViT itself, without the path.

    Args:
        path: a .pth, .pt, .ckpt or .safetensors file, or a folder that `vitlab export` wrote.
        family: whose weights they are; auto where the tensors show it.
        which: the model to take from a file of several, such as student, teacher or model_ema.
        img_size: pixels of the image edge to make the encoder for; 0 for that of the weights.
        partial: whether tensors may be missing, which keep their initial values, or unused.
        into: an encoder to fill, with options that the weights lack, such as drop_path.
    """

    def __init__(
        self,
        path: str,
        family: FamilyName = "auto",
        which: str = "",
        img_size: int = 0,
        partial: bool = False,
        into: ViT | None = None,
    ):
        found = load_pretrained(path, family, which, img_size, partial, into).vit
        super().__init__(**found.config)
        self.config = found.config  # that of the ViT, which needs no file again
        self.load_state_dict(found.state_dict())
