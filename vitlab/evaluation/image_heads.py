"""Linear heads on frozen image features, trained with augmentation: top-1 accuracy."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset, Subset

from vitlab import parallel
from vitlab.data import Data, SingleCrop, normalize
from vitlab.data.datasets import Example, Training
from vitlab.data.samples import Samples
from vitlab.encoders import Encoder
from vitlab.evaluation.fingerprint import fingerprint_of_heads
from vitlab.evaluation.protocol import Outcome, Precision, Protocol, Work
from vitlab.probes.evidence import Correct
from vitlab.probes.fitting import Batch, Fitting
from vitlab.probes.heads import Heads, Layers, Planned, image_loss
from vitlab.probes.probe import share
from vitlab.probes.reading import Reading, check_layers, read
from vitlab.probes.recipe import Places, Recipe
from vitlab.probes.training import (
    chunks,
    keys_of,
    split,
    training_loader,
    whole,
)

CHUNK = 64  # training images of one forward pass at most


@dataclass(frozen=True)
class ImageInputs:
    """Variants of image features: each reading with each choice of the patches' mean.

    Args:
        readings: layers whose [CLS] are concatenated, and whether they pass the final norm.
        mean: for each variant whether the mean patch of the reading's last layer stands behind.
    """

    readings: tuple[Reading, ...] = (Reading(),)
    mean: tuple[bool, ...] = (False,)

    def __post_init__(self) -> None:
        """Refuse a choice that is empty or made twice."""
        for name, value in [("readings", self.readings), ("mean", self.mean)]:
            if not value or len(set(value)) < len(value):
                raise ValueError(f"{name} {value}: name at least one, and none twice")

    def widths(self, encoder: Encoder) -> dict[str, int]:
        """Width of each variant, by its name."""
        return {
            self._name(reading, mean): encoder.width * (len(reading.layers) + mean)
            for reading in self.readings
            for mean in self.mean
        }

    def read(
        self, encoder: Encoder, images: Tensor, work: Work
    ) -> dict[str, Float[Tensor, "b 1 _"]]:
        """Return all variants of images in 8 bits, by name, as a single patch, in fp32."""
        with torch.no_grad(), work.loading.precision():
            found = read(encoder, normalize(images.to(work.device)), self.readings)
        features = {}
        for reading, tokens in zip(self.readings, found, strict=True):
            last = tokens.patches[..., -encoder.width :].float().mean(1)
            for mean in self.mean:
                parts = [tokens.cls.float(), last] if mean else [tokens.cls.float()]
                features[self._name(reading, mean)] = torch.cat(parts, dim=-1)[:, None]
        return features

    def _name(self, reading: Reading, mean: bool) -> str:
        return f"{reading.name}{' and mean patch' if mean else ''}"


class ImageHeads(Protocol):
    """Linear classifiers of images, as DINO and DINOv2 train them.

    Every combination of features (`inputs`) and learning rate is a head of its own, and all are
    trained and tested on the same passes of the encoder.

    Args:
        recipe: how heads are trained, and which one makes the headline.
        inputs: which features are read.
        layers: what a head is made of.
        view: what a training image becomes.
        size: edge of test images, in pixels: the middle of images whose short side is 256 for 224.
        precision: of the encoder; heads compute in fp32.
    """

    task = "classification"

    def __init__(
        self,
        recipe: Recipe,
        inputs: ImageInputs = ImageInputs(),
        layers: Layers = Layers(norm=False),  # noqa: B008, frozen
        view: SingleCrop = SingleCrop(),  # noqa: B008, holds no state between calls
        size: int = 224,
        precision: Precision = "fp32",
    ):
        self.recipe, self.inputs, self.layers = recipe, inputs, layers
        self.view, self.size, self.precision = view, size, precision

    def check(self, encoder: Encoder, data: Data) -> None:
        """Refuse sizes, layers and data that do not fit.

        Raises:
            ValueError: what was given, what is allowed, what to do.
        """
        check_layers(encoder, self.inputs.readings)
        encoder.check(self.view.size, "view.size")
        encoder.check(self.size, "size")
        for name in (data.train, data.val):
            data.labeled(name, self.size)  # refuses data without labels
            labels = data.samples(name).labels
            if labels is not None and labels.max() >= data.num_classes:
                raise ValueError(
                    f"split {name!r} of {type(data).__name__} holds class {labels.max()}, but it "
                    f"names {data.num_classes} classes; name all of them"
                )
        split(len(data.samples(data.train)), self.recipe.select == "held out")

    def run(self, encoder: Encoder, data: Data, work: Work) -> Outcome:
        """Train all heads, choose one as the recipe says, and test all of them."""
        samples = data.samples(data.train)
        kept, held = split(len(samples), self.recipe.select == "held out")
        planned = [
            Planned(source, width, rate)
            for source, width in self.inputs.widths(encoder).items()
            for rate in self.recipe.rates
        ]
        heads = Heads(planned, data.num_classes, self.layers, self.recipe, work.seed, work.device)
        about = (type(data).__name__, data.num_classes, data.val, len(samples))
        key = fingerprint_of_heads(encoder, samples, (keys_of(self), about, work.seed))
        fitting = Fitting(heads, len(kept), work.folder, key)
        places = Places(kept, self.recipe, work.seed, CHUNK, parallel.rank(), parallel.world())
        places.start = fitting.step
        reported: Dataset = data.labeled(data.val, self.size)
        decides: Dataset | None = None
        if self.recipe.select == "val":
            decides = reported
        elif self.recipe.select == "held out":
            decides = Subset(data.labeled(data.train, self.size), held.tolist())

        def scores() -> dict[str, float]:
            assert decides is not None
            found = self._correct(encoder, heads, decides, work)
            return {name: correct.value for name, correct in found.items()}

        fitting.run(
            self._batches(encoder, samples, places, work), None if decides is None else scores
        )
        fitting.keep_best()
        return self._outcome(encoder, fitting, reported, work)

    def _batches(
        self, encoder: Encoder, samples: Samples, places: Places, work: Work
    ) -> Iterator[Batch]:
        train = Training(samples, self.view, work.seed, patience=0)
        loader = training_loader(train, places, work.loading.workers, stack)
        for images, labels in work.track(loader, "training heads", total=len(places)):
            read = [self.inputs.read(encoder, some, work) for some in chunks(images, places)]
            features = {
                name: whole(torch.cat([each[name] for each in read]), places) for name in read[0]
            }
            yield Batch(features, image_loss(whole(labels.to(work.device), places)))

    def _correct(
        self, encoder: Encoder, heads: Heads, images: Dataset, work: Work
    ) -> dict[str, Correct]:
        """Test all heads on the same passes of the encoder."""
        rows: list[Tensor] = []
        loader = share(images, work.loading)
        for pixels, labels in work.track(loader, "testing heads", total=len(loader)):
            features = self.inputs.read(encoder, pixels, work)
            truth = labels.to(work.device)
            right = [heads.logits(name, features)[:, 0].argmax(1) == truth for name in heads.names]
            rows.append(torch.stack(right, dim=1))
        table = parallel.gather(torch.cat(rows).to(torch.uint8)).bool()
        return {name: Correct(table[:, index]) for index, name in enumerate(heads.names)}

    def _outcome(self, encoder: Encoder, fitting: Fitting, images: Dataset, work: Work) -> Outcome:
        heads = fitting.heads
        found = self._correct(encoder, heads, images, work)
        scores = {name: correct.value for name, correct in found.items()}
        selected = self.recipe.select != "last"
        head = fitting.chosen if selected else heads.names[0]
        outcome = Outcome(
            headline="top1",
            scores={"top1": scores[head], **{f"top1/{n}": s for n, s in scores.items()}},
            evidence=found[head],
            tried=fitting.tried if selected else scores,
            chosen=fitting.label(head) if selected else head,
            chosen_on=self.recipe.select if self.recipe.select != "last" else "",
        )
        return outcome if len(outcome.tried) > 1 else replace(outcome, chosen="", chosen_on="")


def stack(examples: list[Example]) -> tuple[Tensor, Tensor]:
    """Collate training images and their classes."""
    images = torch.stack([example.views[0][0] for example in examples])
    return images, torch.tensor([example.label for example in examples])
