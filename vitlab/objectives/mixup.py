"""Mixup, CutMix and random erasing of a micro-batch on the device.

The operations are timm's. They draw from the global generators of Python and numpy, which are
seeded from torch's for the time of the call: what is drawn is a function of the step.

Axis letters: b images, c classes.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from timm.data import mixup as timm_mixup
from timm.data import random_erasing as timm_erasing
from torch import Tensor

from vitlab.errors import InputError, check_fields, check_least
from vitlab.rng import draw_seed, seeded_rng

Images = Float[Tensor, "b 3 height width"]


@dataclass(frozen=True)
class Mixup:
    """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899); the defaults are DeiT's.

    Image i is mixed with image b - 1 - i, all with one share a, drawn for each micro-batch. Mixup:
    a x + (1 - a) x'. CutMix: a box of x' with the share 1 - a of the area in x. The labels are
    mixed with the same share.

    Args:
        mixup_alpha: both parameters of the Beta distribution of mixup's share; 0 for no mixup.
        cutmix_alpha: the same for CutMix.
        prob: probability that a micro-batch is mixed at all.
        switch_prob: probability of CutMix where both are possible.
    """

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    prob: float = 1.0
    switch_prob: float = 0.5

    def __post_init__(self) -> None:
        check_least(self, "model.objective.mixup.", {"mixup_alpha": 0, "cutmix_alpha": 0})
        shares = {name: getattr(self, name) for name in ("prob", "switch_prob")}
        problems = {name: (not 0 <= x <= 1, "is not in [0, 1]") for name, x in shares.items()}
        check_fields(self, "model.objective.mixup.", problems)

    @property
    def active(self) -> bool:
        """Whether anything is ever mixed."""
        return self.prob > 0 and (self.mixup_alpha > 0 or self.cutmix_alpha > 0)

    def check(self, images: int) -> None:
        """Refuse a micro-batch without pairs.

        Raises:
            InputError: the number of images is odd.
        """
        if self.active and images % 2:
            raise InputError(
                f"a micro-batch of {images} images cannot be mixed in pairs; choose "
                "data.global_batch_size and data.micro_batch_size so that a device gets an even "
                "number, or set model.objective.mixup.mixup_alpha and cutmix_alpha to 0",
                field="data.micro_batch_size",
            )

    def __call__(
        self, images: Images, labels: Int[Tensor, " b"], classes: int, smoothing: float
    ) -> tuple[Images, Float[Tensor, "b c"]]:
        """Return mixed images and their targets: probabilities of the classes.

        Without mixup, the target is 1 - smoothing + smoothing / c for the label's class and
        smoothing / c for the others; mixup takes the mean of two such with the images' shares. The
        images given are normalized, and not changed in place.
        """
        if not self.active:
            return images, timm_mixup.mixup_target(labels, classes, lam=1.0, smoothing=smoothing)
        self.check(len(images))
        mix = timm_mixup.Mixup(
            self.mixup_alpha,
            self.cutmix_alpha,
            prob=self.prob,
            switch_prob=self.switch_prob,
            label_smoothing=smoothing,
            num_classes=classes,
        )
        with seeded_rng(draw_seed()):
            return mix(images.clone(), labels)  # it works in place


@dataclass(frozen=True)
class RandomErasing:
    """Random erasing (arXiv:1708.04896) of one box in an image, filled with noise.

    After normalization, the noise is standard normal for each pixel and channel. The box has 2 % to
    a third of the area and is 0.3 to 1 / 0.3 times as high as wide.

    Args:
        prob: probability for each image; 0 for none. DeiT uses 0.25.
    """

    prob: float = 0.25

    def __post_init__(self) -> None:
        problem = (not 0 <= self.prob <= 1, "is not in [0, 1]")
        check_fields(self, "model.objective.random_erasing.", {"prob": problem})

    def __call__(self, images: Images) -> Images:
        """Return the images with the boxes; those given are not changed in place."""
        if not self.prob:
            return images
        # the noise is torch's own, on the device of the images
        erase = timm_erasing.RandomErasing(self.prob, mode="pixel", device=images.device)
        with seeded_rng(draw_seed()):
            return erase(images.clone())
