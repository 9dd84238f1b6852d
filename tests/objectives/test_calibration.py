"""Every acceptance fact of the specification (section 2.4); starts from files; bad input."""

import copy

import pytest
import torch
from refusals import refused

from vitlab import distributed
from vitlab.data.batch import Batch
from vitlab.encoders import Pixels, ViT
from vitlab.objectives import (
    Calibration,
    Classification,
    Classifier,
    ClassifierCheckpoint,
    DimensionTerm,
    Mixup,
    RandomErasing,
    TokenTerm,
)
from vitlab.objectives.calibration.relevance import compute_class_masks, most_confident
from vitlab.objectives.calibration.terms import (
    background_loss,
    dimension_loss,
    foreground_loss,
    off_share,
)
from vitlab.optim.schedules import Progress

START = Progress(0, 10, 1, 4)
CLASSES = 4
PLAIN = {"mixup": Mixup(0.0, 0.0), "random_erasing": RandomErasing(0.0), "ema_decay": 0.0}


def classifier(**options) -> Classifier:
    torch.manual_seed(0)
    return Classifier(ViT("nano", 8, 32, **options), CLASSES)


def calibration(model: Classifier, data=None, **options) -> Calibration:
    """Return a calibration that begins from the model and has read the data."""
    objective = Calibration(CLASSES, encoder=copy.deepcopy(model.encoder), **options)
    objective.begin(model)
    if data is not None:
        objective.setup(reader(*data[:2]), len(data[0]))
    return objective


def loss(objective, x, y, masks=None):
    return objective.loss(Batch([x[None]], y, masks=masks), START)


def draw(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of 4 x 4 patches: two by two show the class's color, half of the others a tint.

    The tint is that of the class in six images of ten, and of any class in the others.

    Returns:
        Images, labels, masks of the foreground.
    """
    g = torch.Generator().manual_seed(seed)
    colors = torch.randn(2, CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(9))
    y = torch.randint(CLASSES, (count,), generator=g)
    honest = torch.rand(count, generator=g) < 0.6
    tint = torch.where(honest, y, torch.randint(CLASSES, (count,), generator=g))
    masks = torch.zeros(count, 32, 32, dtype=torch.bool)
    for mask, (row, column) in zip(masks, torch.randint(3, (count, 2), generator=g), strict=True):
        mask[8 * row : 8 * row + 16, 8 * column : 8 * column + 16] = True
    x = 0.5 * torch.randn(count, 3, 32, 32, generator=g) + colors[0, y] * masks[:, None]
    x[:, :, 16:] += 0.5 * colors[1, tint]
    return x, y, masks


def reader(x, y):
    """Return what `Objective.setup` is given: images of these indices, 64 at a time."""

    def read(indices):
        indices = list(indices)
        for first in range(0, len(indices), 64):
            chosen = indices[first : first + 64]
            yield Batch([x[chosen][None]], y[chosen])

    return read


def train(objective, data, steps: int, seed: int = 0, rate: float = 1e-3):
    """Take AdamW steps on random batches of 16."""
    x, y, _ = data
    objective.train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=rate)
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(x), (16,), generator=g)
        optimizer.zero_grad()
        loss(objective, x[chosen], y[chosen]).value.backward()
        optimizer.step()
    return objective


@pytest.fixture(scope="module")
def data():
    return draw(512, 0)


@pytest.fixture(scope="module")
def converged(tiny, data):
    """A classifier that is right about nearly all of the drawn images."""
    torch.manual_seed(0)
    objective = train(Classification(ViT("nano", 8, 32), CLASSES, **PLAIN), data, 400)
    x, y, _ = draw(200, 1)
    with torch.no_grad():
        assert (objective.model(x).argmax(-1) == y).float().mean() > 0.9
    return objective.model


def test_without_weights_it_is_the_plain_fine_tuning_bit_for_bit(converged, data):
    """Facts 5 and 6: the same weights after ten steps; nothing is added, whatever is trained."""
    encoder = copy.deepcopy(converged.encoder)
    plain = Classification(encoder, CLASSES, label_smoothing=0.1, **PLAIN)
    plain.model.load_state_dict(converged.state_dict())
    blank = calibration(converged)
    names = [f"classification.{name}" for name, _ in plain.named_parameters()]
    assert [name for name, _ in blank.named_parameters()] == names
    for objective in (plain, blank):
        train(objective, data, 10)
    for ours, theirs in zip(blank.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    terms = {"tokens": TokenTerm(10.0), "dimensions": DimensionTerm(10.0)}
    objective = train(calibration(converged, data, **terms), data, 2).eval()
    assert [name for name, p in objective.named_parameters() if p.requires_grad] == names
    plain.model.load_state_dict(objective.classification.model.state_dict())
    (evaluate,) = objective.classifiers().values()
    assert torch.equal(evaluate(data[0][:2]), plain.model.eval()(data[0][:2]))


def test_terms_are_linear_in_their_weights_and_not_negative(converged, data):
    """Fact 3."""
    few = [part[:8] for part in data]
    plain = loss(calibration(converged), *few).value.item()
    for make in (
        lambda weight: {"tokens": TokenTerm(weight, foreground="masks")},
        lambda weight: {"dimensions": DimensionTerm(weight)},
        lambda weight: {"tokens": TokenTerm(0, foreground_weight=weight, foreground="masks")},
    ):
        one, two = (
            loss(calibration(converged, data, **make(weight)), *few).value.item() - plain
            for weight in (1.0, 2.0)
        )
        assert one > 0
        assert two == pytest.approx(2 * one, rel=1e-3, abs=1e-5)


def test_there_is_no_background_loss_where_all_is_foreground_or_nothing_is_known(converged, data):
    """Fact 1, through the objective."""
    x, y, masks = (part[:8] for part in data)
    plain, wrong = calibration(converged), (y + 1) % CLASSES
    objective = calibration(converged, tokens=TokenTerm(10.0, foreground="masks"))
    found = loss(objective, x, y, torch.ones_like(masks)).value.item()
    assert found == pytest.approx(loss(plain, x, y).value.item(), rel=1e-6)
    with refused("model.objective.tokens.foreground"):
        loss(objective, x, y)
    # of which the reference knows nothing
    found = loss(calibration(converged, tokens=TokenTerm(10.0)), x, wrong)
    assert found.logs["tokens/known"] == 0
    assert found.value.item() == pytest.approx(loss(plain, x, wrong).value.item(), rel=1e-6)


def test_foreground_comes_from_images_the_reference_is_right_about(converged, data):
    x, y, _ = data
    objective = calibration(converged, tokens=TokenTerm(10.0))
    labels = y[:8].clone()
    labels[3] = (labels[3] + 1) % CLASSES
    shown, known = objective.foreground(x[:8], labels)
    assert not known[3]
    assert shown[3].all()
    assert known.sum() >= 6
    assert (~shown[known]).any(1).all()
    upper = calibration(converged, tokens=TokenTerm(10.0, threshold=0.6))
    fewer, _ = upper.foreground(x[:8], labels)
    assert (fewer <= shown).all()
    dropping = calibration(classifier(drop_path=0.9), tokens=TokenTerm(10.0))
    dropping.begin(converged)  # the reference drops no path
    assert torch.equal(dropping.train().foreground(x[:8], labels)[0], shown)
    assert list(TokenTerm(1.0, layers="upper").blocks(12)) == list(range(6, 12))
    assert list(TokenTerm(1.0).blocks(12)) == [11]


def test_dimension_loss_has_its_zero_cases(converged, data):
    """Fact 3: a rule of ones, and relevance on kept dimensions only."""
    x, y, _ = (part[:8] for part in data)
    objective = calibration(converged, data, dimensions=DimensionTerm(10.0, threshold=0.0))
    plain = loss(calibration(converged), x, y).value
    assert loss(objective, x, y).value.item() == pytest.approx(plain.item(), rel=1e-6)
    relevance, kept = torch.tensor([[0.0, 2, 3]]), torch.tensor([[True, True, False]])
    assert dimension_loss(relevance, kept) == 3
    assert off_share(relevance, kept).item() == pytest.approx(0.6)


def test_rules_are_of_the_ten_surest_correct_images_and_shrink_with_the_threshold(converged, data):
    """Fact 4."""
    x, y, _ = data
    for feature, width in (("hidden", 128), ("cls", 32)):
        before = torch.ones(CLASSES, width, dtype=torch.bool)
        for threshold in (0.0, 0.15, 1.0):
            found = compute_class_masks(converged.eval(), reader(x, y), len(x), feature, threshold)
            assert (found.kept <= before).all()
            before = found.kept
    state = torch.get_rng_state()
    chosen = most_confident(converged.eval(), reader(x, y), len(x), 10)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        p = converged(x).softmax(-1)
    for index in range(CLASSES):
        ours = [i for i in chosen if y[i] == index]
        assert len(ours) == 10
        candidates = ((y == index) & (p.argmax(-1) == index)).nonzero()[:, 0]
        best = sorted(candidates.tolist(), key=lambda i: -p[i, index].item())[:10]
        assert set(ours) == set(best)


def test_no_gradient_reaches_the_reference_the_foreground_or_the_rules(converged, data):
    """Fact 8."""
    x, y, _ = (part[:8] for part in data)
    terms = {"tokens": TokenTerm(10.0), "dimensions": DimensionTerm(10.0)}
    objective = calibration(converged, data, **terms)
    loss(objective, x, y).value.backward()
    assert all(not p.requires_grad and p.grad is None for p in objective.reference.parameters())
    shown, known = objective.foreground(x, y)
    assert shown.dtype == known.dtype == objective.class_masks.dtype == torch.bool
    gradients = []
    for options in ({}, *({name: term} for name, term in terms.items())):
        arm = calibration(converged, data, **options)
        loss(arm, x, y).value.backward()
        gradients.append(arm.encoder.pos_embed.grad)
    assert not gradients[0].allclose(gradients[1])
    assert not gradients[0].allclose(gradients[2])
    before = {name: value.clone() for name, value in objective.reference.state_dict().items()}
    train(objective, data, 3)
    for name, value in objective.reference.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_mean_over_ranks_is_the_loss_of_all_images(monkeypatch):
    """Though one of two ranks knows the foreground of one image, and the other of two."""
    relevance, shown = torch.rand(5, 4), torch.rand(5, 4) > 0.5
    known = torch.tensor([True, False, False, True, True])
    whole = background_loss(relevance, shown, known)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(
        distributed, "all_reduce_mean", lambda count: known.sum().to(count.dtype) / 2
    )
    ranks = [
        background_loss(relevance[rows], shown[rows], known[rows])
        for rows in (slice(0, 3), slice(3, 5))
    ]
    assert torch.stack(ranks).mean().item() == pytest.approx(whole.item(), rel=1e-6)


def test_a_class_without_a_correct_image_is_refused_or_reported(converged, data):
    x, y, _ = data
    kept = y != 2
    read = reader(x[kept], y[kept])
    objective = calibration(converged, dimensions=DimensionTerm(10.0))
    with refused("model.objective.dimensions.allow_unlearned"):
        objective.setup(read, int(kept.sum()))
    allowed = calibration(converged, dimensions=DimensionTerm(10.0, allow_unlearned=True))
    assert "which keep all: 2" in allowed.setup(read, int(kept.sum()))
    assert allowed.class_masks[2].all()
    assert not allowed.class_masks[1].all()
    nothing = reader(x[:4], (converged(x[:4]).argmax(-1) + 1) % CLASSES)
    assert "masks of 0 classes" in allowed.setup(nothing, 4)
    assert allowed.class_masks.all()
    assert calibration(converged).setup(nothing, 4) == ""


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_terms_keep_the_precision_of_their_input_and_are_at_least_fp32(dtype):
    g = torch.Generator().manual_seed(0)
    before, after = (torch.randn(2, 5, 8, generator=g).to(dtype) for _ in range(2))
    shown = torch.tensor([[True, False, True, True]]).expand(2, 4)
    value = foreground_loss(before, after, shown)
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    if dtype == torch.float64:
        before.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: foreground_loss(x, after, shown), before)


def test_settings_that_make_no_sense_are_refused(converged):
    empty = ClassifierCheckpoint(which="model")
    for field, make in (
        ("tokens.weight", lambda: TokenTerm(-1.0)),
        ("tokens.threshold", lambda: TokenTerm(1.0, threshold=2.0)),
        ("tokens.weight", lambda: TokenTerm(layers="upper")),
        ("tokens.weight", lambda: TokenTerm(foreground="masks")),
        ("tokens.threshold", lambda: TokenTerm(1.0, threshold=0.5, foreground="masks")),
        ("dimensions.weight", lambda: DimensionTerm(float("inf"))),
        ("dimensions.weight", lambda: DimensionTerm(threshold=0.5)),
        ("classifier.path", lambda: Calibration(CLASSES)),
        ("classifier.path", lambda: Calibration(CLASSES, empty, ViT("nano", 8, 32))),
        ("encoder", lambda: Calibration(CLASSES, encoder=Pixels(8))),
    ):
        with refused(f"model.objective.{field}"):
            make()
    objective = Calibration(CLASSES, encoder=ViT("nano", 8, 32), tokens=TokenTerm(10.0))
    with refused("model.objective.classifier.path"):
        objective.check_crops([(1, 32)])
    ready = calibration(converged, tokens=TokenTerm(10.0))
    ready.check_crops([(1, 32)])
    with refused("data.transform"):
        ready.check_crops([(2, 32)])
