"""What supervised training does to a whole micro-batch: erase parts of images, mix pairs of them.

The operations are timm's. They draw from the global streams of Python and numpy, which are seeded
from torch's for the time of the call: what is drawn is a function of the step.

Axis letters: b images, c classes.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from timm.data.mixup import Mixup, mixup_target
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from vitlab.rng import drawn_seed, seeded

Images = Float[Tensor, "b 3 height width"]


@dataclass(frozen=True)
class Mixing:
    """Mixup (arXiv:1710.09412) and CutMix (arXiv:1905.04899); the defaults are DeiT's.

    Image i is mixed with image b - 1 - i, all with one share a, drawn for each micro-batch. Mixup:
    a x + (1 - a) x'. CutMix: a box of x' with the share 1 - a of the area in x. The labels are
    mixed with the same share.

    Args:
        mixup: both parameters of the Beta distribution of mixup's share; 0 for no mixup.
        cutmix: the same for CutMix.
        probability: that a micro-batch is mixed at all.
        switch: probability of CutMix where both are possible.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    probability: float = 1.0
    switch: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what is no parameter or no probability."""
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"mixing.{name} {getattr(self, name)} is no parameter of a Beta distribution; "
                    "use a positive number, or 0 to leave it out"
                )
        for name in ("probability", "switch"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"mixing.{name} {getattr(self, name)} is not in [0, 1]")

    @property
    def active(self) -> bool:
        """Whether anything is ever mixed."""
        return self.probability > 0 and (self.mixup > 0 or self.cutmix > 0)

    def check(self, images: int) -> None:
        """Refuse a micro-batch without pairs.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """
        if self.active and images % 2:
            raise ValueError(
                f"a micro-batch of {images} images cannot be mixed: image i is mixed with image "
                "b - 1 - i, and one would be left. Choose data.global_batch_size and "
                "data.micro_batch_size "
                "so that a device gets an even number, or set model.objective.mixing.mixup and "
                "cutmix to 0"
            )

    def __call__(
        self, images: Images, labels: Int[Tensor, " b"], classes: int, smoothing: float
    ) -> tuple[Images, Float[Tensor, "b c"]]:
        """Return mixed images and their targets: probabilities of the classes.

        Without mixing, the target is 1 - smoothing + smoothing / c for the label's class and
        smoothing / c for the others; mixing takes the mean of two such with the images' shares.

        Args:
            images: normalized; kept as they are.
            labels: class index of each.
            classes: number of classes.
            smoothing: share of the target that is spread over all classes evenly.
        """
        if not self.active:
            return images, mixup_target(labels, classes, lam=1.0, smoothing=smoothing)
        self.check(len(images))
        mix = Mixup(
            self.mixup,
            self.cutmix,
            prob=self.probability,
            switch_prob=self.switch,
            label_smoothing=smoothing,
            num_classes=classes,
        )
        with seeded(drawn_seed()):
            mixed, targets = mix(images.clone(), labels)  # it works in place
        return mixed, targets


@dataclass(frozen=True)
class Erasing:
    """Random erasing (arXiv:1708.04896) of one box in an image, filled with noise.

    After normalization, the noise is standard normal for each pixel and channel. The box has 2 % to
    a third of the area and is 0.3 to 1 / 0.3 times as high as wide.

    Args:
        probability: for each image; 0 leaves all alone. DeiT uses 0.25.
    """

    probability: float = 0.25

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not 0 <= self.probability <= 1:
            raise ValueError(f"erasing.probability {self.probability} is not in [0, 1]")

    def __call__(self, images: Images) -> Images:
        """Return the images with the boxes; those given are kept as they are."""
        if not self.probability:
            return images
        # the noise is torch's own, on the device of the images
        erase = RandomErasing(self.probability, mode="pixel", device=images.device)
        with seeded(drawn_seed()):
            return erase(images.clone())
