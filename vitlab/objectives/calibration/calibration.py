"""Decision-stream calibration of a converged classifier: tokens first, then dimensions.

"ViT-Calibrator: Decision Stream Calibration for Vision Transformer" (arXiv:2304.04354). The paper's
two stages and their aims are known here, not its formulas: the losses are a reconstruction after
Transformer Doctor (NeurIPS 2024), see docs/calibration.md.

Nothing is added to the model: the classifier that is exported has the architecture of the first.

Axis letters: b images, p patches, c classes.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitlab.data.batch import Batch
from vitlab.encoders import Encoder, ViT
from vitlab.encoders.checkpoint_io import few
from vitlab.errors import InputError
from vitlab.objectives.calibration.classifier_checkpoint import (
    PATH,
    ClassifierCheckpoint,
    LoadedClassifier,
    load_classifier,
)
from vitlab.objectives.calibration.relevance import (
    DecisionStream,
    compute_class_masks,
    dimension_relevance,
    foreground,
    masked_foreground,
    received,
    record_stream,
    token_relevance,
)
from vitlab.objectives.calibration.terms import (
    DimensionTerm,
    TokenTerm,
    background_loss,
    dimension_loss,
    foreground_loss,
    off_share,
)
from vitlab.objectives.classification import Classification, Classifier
from vitlab.objectives.mixup import Mixup, RandomErasing
from vitlab.objectives.objective import ImageReader, Loss, Objective
from vitlab.objectives.pretrained import Pretrained
from vitlab.optim.schedules import Progress

_NO_CLASSIFIER = (
    "calibration begins from a converged classifier, and model.objective.classifier.path is empty; "
    "set it to the last.ckpt of a run with labels"
)


class Calibration(Objective):
    """Fine-tuning of a converged classifier, with terms on the relevance of its features.

    cross-entropy + tokens.weight L_bg + tokens.foreground_weight L_fg + dimensions.weight L_dim.
    Foreground and class masks come from the classifier before calibration, which is kept as
    reference. With all weights 0 it is plain fine-tuning, the baseline of calibration.

    Images are not mixed, as a decision is one for the class of an image.

    Args:
        num_classes: of the training data, from which `vitlab fit` takes it.
        classifier: the converged classifier, by its file.
        encoder: one to fill with the weights of `classifier`, with options that they may lack, such
            as drop path; by default the one of the file.
        tokens: the first stage.
        dimensions: the second stage, which begins from the output of the first.
        label_smoothing: share of the target that is spread evenly over all classes.
        random_erasing: random erasing of the images.
    """

    file_arguments = ("classifier",)

    def __init__(
        self,
        num_classes: int,
        classifier: ClassifierCheckpoint = ClassifierCheckpoint(),  # noqa: B008
        encoder: Encoder | None = None,
        tokens: TokenTerm = TokenTerm(),  # noqa: B008
        dimensions: DimensionTerm = DimensionTerm(),  # noqa: B008
        label_smoothing: float = 0.1,
        random_erasing: RandomErasing = RandomErasing(0.0),  # noqa: B008
    ):
        super().__init__()
        if encoder is not None and not isinstance(encoder, ViT):
            raise InputError(
                f"a {type(encoder).__name__} cannot be calibrated; use a ViT",
                field="model.objective.encoder",
            )
        loaded = None
        if classifier.path:
            loaded = _load(classifier, encoder, num_classes, tokens, dimensions)
            encoder = loaded.model.encoder
        elif encoder is None or classifier != ClassifierCheckpoint():
            raise InputError(_NO_CLASSIFIER, field=PATH)
        self.tokens, self.dimensions = tokens, dimensions
        self.needs_masks = tokens.foreground == "masks"
        self.num_classes = self.out_dim = num_classes
        self.classification = Classification(
            encoder,
            num_classes,
            label_smoothing=label_smoothing,
            mixup=Mixup(0.0, 0.0),
            random_erasing=random_erasing,
            ema_decay=0.0,
        )
        active = tokens.active or dimensions.weight
        model = self.classification.model
        self.reference = copy.deepcopy(model).requires_grad_(False) if active else None
        if dimensions.weight:
            width = encoder.embed_dim * (4 if dimensions.feature == "hidden" else 1)
            self.register_buffer("class_masks", torch.ones(num_classes, width, dtype=torch.bool))
            self.register_buffer("mask_images", torch.zeros(num_classes, dtype=torch.long))
        self.class_masks: Tensor
        self.mask_images: Tensor
        self.begun = False
        if loaded is not None:
            self.begin(loaded.model, loaded.origin)

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]
        """The encoder that is calibrated."""
        return self.classification.encoder

    def begin(self, model: Classifier, origin: Classifier | None = None) -> None:
        """Copy the weights of a converged classifier.

        `origin` is the reference, where that is another one: the model before its first stage.
        """
        self.classification.model.load_state_dict(model.state_dict())
        if self.reference is not None:
            self.reference.load_state_dict((origin or model).state_dict())
        self.begun = True

    def loss(self, batch: Batch, progress: Progress) -> Loss:
        """Return the cross-entropy with the terms that have a weight."""
        if self.reference is None:
            return self.classification.loss(batch, progress)
        labels = self.classification.labels_of(batch)
        with record_stream(self.classification.model) as stream:
            plain = self.classification.loss(batch, progress)
        value, logs = plain.value, {**plain.logs, "loss/classification": plain.value.detach()}
        terms = [self.token_loss] if self.tokens.active else []
        terms += [self.dimension_loss] if self.dimensions.weight else []
        for term in terms:
            added = term(stream, labels, batch)
            value, logs = value + added.value, logs | added.logs
        return Loss(value, logs)

    def token_loss(self, stream: DecisionStream, labels: Int[Tensor, " b"], batch: Batch) -> Loss:
        """Return the first stage's terms with their weights."""
        shown, known = self.foreground(stream.calls[0].given, labels, batch.masks)
        blocks = self.tokens.blocks(len(stream.states))
        relevance = [received(r, stream.grid) for r in token_relevance(stream, labels, blocks)]
        losses = [background_loss(each, shown, known) for each in relevance]
        value = self.tokens.weight * torch.stack(losses).mean()
        if self.tokens.foreground_weight:
            steps = [(stream.states[block - 1], stream.states[block]) for block in blocks]
            kept = [foreground_loss(*step, shown & known[:, None]) for step in steps]
            value = value + self.tokens.foreground_weight * torch.stack(kept).mean()
        share = off_share(torch.stack(relevance).sum(0).detach()[known], shown[known])
        return Loss(value, {"tokens/background": share, "tokens/known": known.float().mean()})

    def dimension_loss(
        self, stream: DecisionStream, labels: Int[Tensor, " b"], batch: Batch
    ) -> Loss:
        """Return the second stage's term with its weight."""
        assert self.mask_images.any(), "`setup` computes the class masks before the first step"
        kept = self.class_masks[labels]
        relevance = dimension_relevance(stream, labels, self.dimensions.feature)
        value = self.dimensions.weight * dimension_loss(relevance, kept)
        return Loss(value, {"dimensions/off_rule": off_share(relevance.detach(), kept)})

    def foreground(
        self,
        images: Float[Tensor, "b 3 height width"],
        labels: Int[Tensor, " b"],
        masks: Bool[Tensor, "b height width"] | None = None,
    ) -> tuple[Bool[Tensor, "b p"], Bool[Tensor, " b"]]:
        """Return the patches of the foreground, and of which images they are known.

        With tokens.foreground masks, from the masks; else by the relevance in the reference, of
        images that it classifies correctly. Of other images all patches are foreground.

        Raises:
            InputError: masks are needed, and the batch has none.
        """
        assert self.reference is not None
        if self.needs_masks:
            if masks is None:
                raise InputError(
                    "tokens.foreground is masks and the batch has none; give Batch.masks, or set "
                    "tokens.foreground derived",
                    field="model.objective.tokens.foreground",
                )
            known = ~masks.all(2).all(1)  # an image without a mask has one that is true throughout
            return masked_foreground(masks, self.reference.encoder.patch_size), known
        with torch.enable_grad(), record_stream(self.reference) as stream:
            logits = self.reference.eval()(images.detach().requires_grad_())
        known = logits.argmax(-1) == labels
        blocks = range(len(stream.states))
        relevance = [r.detach() for r in token_relevance(stream, labels, blocks, graph=False)]
        shown = foreground(relevance, stream.grid, self.tokens.threshold)
        return shown | ~known[:, None], known

    def setup(self, read: ImageReader, count: int) -> str:
        """Compute the class masks, where the second stage needs them.

        Raises:
            InputError: a class has no training image that the reference classifies correctly.
        """
        if not self.dimensions.weight:
            return ""
        assert self.reference is not None
        settings = self.dimensions
        masks = compute_class_masks(
            self.reference.eval(), read, count, settings.feature, settings.threshold
        )
        self.class_masks.copy_(masks.kept)
        self.mask_images.copy_(masks.images)
        missing = [str(each) for each in (masks.images == 0).nonzero()[:, 0].tolist()]
        if missing and not settings.allow_unlearned:
            raise InputError(
                f"no training image of the classes {few(missing)} is classified correctly by the "
                "model in model.objective.classifier, so they have no class mask; begin from a "
                "model that has converged on these data, or let such classes keep all dimensions "
                "with model.objective.dimensions.allow_unlearned true",
                field="model.objective.dimensions.allow_unlearned",
            )
        share = 100 * masks.kept[masks.images > 0].float().mean().item()
        left = f"; classes without one, which keep all: {few(missing)}" if missing else ""
        return (
            f"masks of {int((masks.images > 0).sum())} classes from {int(masks.images.sum())} "
            f"images keep {share:.1f} % of {masks.kept.shape[1]} dimensions{left}"
        )

    def classifiers(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Return the model that is calibrated."""
        return self.classification.classifiers()

    def check_crops(self, crops: Iterable[tuple[int, int]]) -> None:
        """Refuse a model that has not converged, and crops the classifier cannot use."""
        if not self.begun:
            raise InputError(_NO_CLASSIFIER, field=PATH)
        self.classification.check_crops(crops)


def _load(
    source: ClassifierCheckpoint,
    into: ViT | None,
    classes: int,
    tokens: TokenTerm,
    dimensions: DimensionTerm,
) -> LoadedClassifier:
    """Load the classifier, and refuse one that does not suit the data or the stage."""
    if isinstance(into, Pretrained):
        raise InputError(
            "model.objective.encoder reads weights that those of model.objective.classifier would "
            "replace; leave the encoder out, or give a ViT to fill",
            field="model.objective.encoder",
        )
    loaded = load_classifier(source, into)
    if (given := loaded.model.head.out_features) != classes:
        raise InputError(
            f"the classifier in {source.path} has {given} classes and the data have {classes}; "
            "calibrate it on the data that it was trained on",
            field=PATH,
        )
    flag = "model.objective.classifier.allow_uncalibrated"
    needs_first = bool(dimensions.weight) and not tokens.active and not loaded.calibrated
    if needs_first and not source.allow_uncalibrated:
        raise InputError(
            f"{source.path} is not the output of the first stage, with which the second begins; "
            f"run configs/calibrate_tokens.yaml first and give its last.ckpt, or set {flag} true",
            field=PATH,
        )
    if source.allow_uncalibrated and not needs_first:
        raise InputError(
            f"{flag} is for a second stage without the first; here it would be ignored: leave it "
            "out",
            field=flag,
        )
    return loaded
