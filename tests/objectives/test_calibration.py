"""Every acceptance fact of the specification (section 2.4); starts from files; bad input."""

import copy

import pytest
import torch
from refusals import refused

from vitlab import distributed
from vitlab.data.batch import Batch
from vitlab.encoders import Pixels, ViT
from vitlab.encoders.vit import Shape
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
from vitlab.objectives.calibration.class_masks import compute_class_masks, most_confident
from vitlab.objectives.calibration.relevance import (
    dimension_relevance,
    received,
    record_stream,
    token_relevance,
)
from vitlab.objectives.calibration.terms import background_loss, dimension_loss, off_share
from vitlab.optim.schedules import Progress

START = Progress(0, 10, 1, 4)
REST = ((False, 1), (True, 0), (True, 1))
CLASSES = 4


def classifier(**options) -> Classifier:
    torch.manual_seed(0)
    return Classifier(ViT("nano", 8, 32, **options), CLASSES)


def calibration(model: Classifier, **options) -> Calibration:
    """Return a calibration that begins from the model."""
    objective = Calibration(CLASSES, encoder=copy.deepcopy(model.encoder), **options)
    objective.begin(model)
    return objective


def draw(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images of 4 x 4 patches: two by two show the class's color, half of the others a tint.

    The tint is that of the class in six images of ten, and of any class in the others.

    Returns:
        Images, labels, masks of the foreground.
    """
    g = torch.Generator().manual_seed(seed)
    colors = torch.randn(2, CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(9))
    x = 0.5 * torch.randn(count, 3, 32, 32, generator=g)
    y = torch.randint(CLASSES, (count,), generator=g)
    masks = torch.zeros(count, 32, 32, dtype=torch.bool)
    for index in range(count):
        honest = torch.rand((), generator=g) < 0.6
        other = int(torch.randint(CLASSES, (), generator=g))
        x[index, :, 16:] += 0.5 * colors[1, int(y[index]) if honest else other]
        row, column = (8 * int(k) for k in torch.randint(0, 3, (2,), generator=g))
        x[index, :, row : row + 16, column : column + 16] += colors[0, y[index]]
        masks[index, row : row + 16, column : column + 16] = True
    return x, y, masks


def reader(x, y):
    """Return what `Objective.setup` is given: images of these indices, 64 at a time."""

    def read(indices):
        indices = list(indices)
        for first in range(0, len(indices), 64):
            chosen = indices[first : first + 64]
            yield Batch([x[chosen][None]], y[chosen])

    return read


def train(objective, data, steps: int, seed: int = 0, masked: bool = False, rate: float = 1e-3):
    """Take AdamW steps on random batches of 16."""
    x, y, masks = data
    objective.train()
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=rate)
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(x), (16,), generator=g)
        batch = Batch([x[chosen][None]], y[chosen], masks=masks[chosen] if masked else None)
        optimizer.zero_grad()
        objective.loss(batch, START).value.backward()
        optimizer.step()
    return objective


@pytest.fixture(scope="module")
def data():
    return draw(512, 0)


@pytest.fixture(scope="module")
def converged(data):
    """A classifier that is right about nearly all of the drawn images."""
    from vitlab.encoders import vit

    before, vit.SHAPES["nano"] = vit.SHAPES["nano"], Shape(32, 2, 2)
    torch.manual_seed(0)
    objective = Classification(
        ViT("nano", 8, 32),
        CLASSES,
        mixup=Mixup(0, 0),
        random_erasing=RandomErasing(0.0),
        ema_decay=0.0,
    )
    train(objective, data, 400)
    vit.SHAPES["nano"] = before
    x, y, _ = draw(200, 1)
    with torch.no_grad():
        assert (objective.model(x).argmax(-1) == y).float().mean() > 0.9
    return objective.model


def passed(model, x):
    with torch.enable_grad(), record_stream(model) as stream:
        model(x.clone().requires_grad_())
    return stream


def test_without_weights_it_is_the_plain_fine_tuning_bit_for_bit(converged, data):
    """Fact 5, over ten steps: the same losses, and the same weights at the end."""
    plain = Classification(
        copy.deepcopy(converged.encoder),
        CLASSES,
        label_smoothing=0.1,
        mixup=Mixup(0.0, 0.0),
        random_erasing=RandomErasing(0.0),
        ema_decay=0.0,
    )
    plain.model.load_state_dict(converged.state_dict())
    blank = calibration(converged)
    assert list(dict(blank.named_parameters())) == [
        f"classification.{name}" for name, _ in plain.named_parameters()
    ]
    for objective in (plain, blank):
        train(objective, data, 10)
    for ours, theirs in zip(blank.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_terms_are_linear_in_their_weights_and_not_negative(converged, data):
    """Fact 3."""
    x, y, masks = data
    batch = Batch([x[:8][None]], y[:8], masks=masks[:8])
    values = {}
    for weight in (0.0, 1.0, 2.0):
        foreground = "masks" if weight else "derived"  # set for nothing, it is refused
        for name, terms in {
            "tokens": {"tokens": TokenTerm(weight, foreground=foreground)},
            "dimensions": {"dimensions": DimensionTerm(weight)},
            "keep": {"tokens": TokenTerm(0.0, foreground_weight=weight, foreground=foreground)},
        }.items():
            objective = calibration(converged, **terms)
            objective.setup(reader(x, y), len(x))
            values[name, weight] = objective.loss(batch, START).value.item()
    for name in ("tokens", "dimensions", "keep"):
        one, two = (values[name, weight] - values[name, 0.0] for weight in (1.0, 2.0))
        assert one > 0
        assert two == pytest.approx(2 * one, rel=1e-3, abs=1e-5)


def test_there_is_no_background_loss_where_all_is_foreground_or_nothing_is_known(converged, data):
    """Fact 1, through the objective."""
    x, y, masks = data
    objective = calibration(converged, tokens=TokenTerm(10.0, foreground="masks"))
    everything = Batch([x[:8][None]], y[:8], masks=torch.ones_like(masks[:8]))
    plain = calibration(converged).loss(Batch([x[:8][None]], y[:8]), START).value
    assert objective.loss(everything, START).value.item() == pytest.approx(plain.item(), rel=1e-6)
    with refused("model.objective.tokens.foreground"):
        objective.loss(Batch([x[:8][None]], y[:8]), START)
    wrong = (y[:8] + 1) % CLASSES  # of which the reference knows nothing
    objective = calibration(converged, tokens=TokenTerm(10.0))
    found = objective.loss(Batch([x[:8][None]], wrong), START)
    plain = calibration(converged).loss(Batch([x[:8][None]], wrong), START).value
    assert found.logs["tokens/known"] == 0
    assert found.value.item() == pytest.approx(plain.item(), rel=1e-6)


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


def test_dimension_loss_has_its_zero_cases(converged, data):
    """Fact 3: a rule of ones, and relevance on kept dimensions only."""
    x, y, _ = data
    objective = calibration(converged, dimensions=DimensionTerm(10.0, threshold=0.0))
    objective.setup(reader(x, y), len(x))
    assert objective.class_masks.all()
    plain = calibration(converged).loss(Batch([x[:8][None]], y[:8]), START).value
    found = objective.loss(Batch([x[:8][None]], y[:8]), START).value
    assert found.item() == pytest.approx(plain.item(), rel=1e-6)
    relevance = torch.tensor([[0.0, 2.0, 3.0]])
    assert dimension_loss(relevance, torch.tensor([[False, True, True]])) == 0
    assert dimension_loss(relevance, torch.tensor([[True, True, False]])) == 3


def test_rules_shrink_as_the_threshold_rises(converged, data):
    """Fact 4."""
    x, y, _ = data
    for feature, width in (("hidden", 128), ("cls", 32)):
        before = None
        for threshold in (0.0, 0.05, 0.15, 0.5, 1.0):
            found = compute_class_masks(converged.eval(), reader(x, y), len(x), feature, threshold)
            assert found.kept.shape == (CLASSES, width)
            assert found.kept.dtype == torch.bool
            assert before is None or (found.kept <= before).all()
            before = found.kept


def test_rules_are_made_of_the_ten_surest_correct_images_of_each_class(converged, data):
    """Fact 4."""
    x, y, _ = data
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


def test_one_flipped_label_changes_the_rules_of_two_classes_at_most(converged, data):
    """Fact 8: those of the class it leaves and the one it joins, and its own relevance alone."""
    x, y, _ = data
    chosen = most_confident(converged.eval(), reader(x, y), len(x), 10)[0]
    flipped = y.clone()
    flipped[chosen] = (y[chosen] + 1) % CLASSES
    before = compute_class_masks(converged, reader(x, y), len(x), "hidden", 0.15)
    after = compute_class_masks(converged, reader(x, flipped), len(x), "hidden", 0.15)
    others = [k for k in range(CLASSES) if k not in (y[chosen], flipped[chosen])]
    assert torch.equal(before.kept[others], after.kept[others])
    few, one = x[:4], y[:4].clone()
    one[2] = (one[2] + 1) % CLASSES
    for relevance in (
        lambda labels: dimension_relevance(passed(converged, few), labels, "hidden"),
        lambda labels: token_relevance(passed(converged, few), labels, [1])[0],
    ):
        first, second = relevance(y[:4]), relevance(one)
        same = [0, 1, 3]
        assert torch.allclose(first[same], second[same], atol=1e-7)
        assert not torch.allclose(first[2], second[2])


def test_no_gradient_reaches_the_reference_the_foreground_or_the_rules(converged, data):
    """Fact 8."""
    x, y, _ = data
    objective = calibration(converged, tokens=TokenTerm(10.0), dimensions=DimensionTerm(10.0))
    objective.setup(reader(x, y), len(x))
    images = x[:8].clone()
    objective.loss(Batch([images[None]], y[:8]), START).value.backward()
    assert all(not p.requires_grad and p.grad is None for p in objective.reference.parameters())
    shown, known = objective.foreground(x[:8], y[:8])
    assert shown.dtype == known.dtype == objective.class_masks.dtype == torch.bool
    assert not images.requires_grad
    for parameter in objective.classification.parameters():
        assert parameter.grad is not None
    before = {name: value.clone() for name, value in objective.reference.state_dict().items()}
    train(objective, data, 3)
    for name, value in objective.reference.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_reference_drops_no_path(converged, data):
    objective = calibration(
        Classifier(ViT("nano", 8, 32, drop_path=0.9), CLASSES), tokens=TokenTerm(10.0)
    )
    objective.begin(converged)
    plain = calibration(converged, tokens=TokenTerm(10.0))
    for each in (objective, plain):
        each.train()
    x, y, _ = data
    found, expected = (each.foreground(x[:8], y[:8]) for each in (objective, plain))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_calibration_adds_no_parameter():
    """Fact 6: what is trained and exported has the parameters of the plain classifier."""
    for size, count in (("Ti", 5_717_416), ("S", 22_050_664), ("B", 86_567_656)):
        with torch.device("meta"):
            model = Classifier(ViT(size, 16, 224), 1000)
        assert sum(p.numel() for p in model.parameters()) == count
        with torch.device("meta"):
            objective = Calibration(
                1000, encoder=model.encoder, tokens=TokenTerm(10.0), dimensions=DimensionTerm(10.0)
            )
        assert sum(p.numel() for p in objective.parameters() if p.requires_grad) == count


def test_the_evaluated_graph_is_that_of_the_plain_classifier(converged, data):
    """Fact 6: operation for operation, and bit for bit, whatever was trained."""
    from torch.fx.experimental.proxy_tensor import make_fx

    objective = calibration(converged, tokens=TokenTerm(10.0), dimensions=DimensionTerm(10.0))
    objective.setup(reader(*data[:2]), len(data[0]))
    train(objective, data, 2)
    objective.eval()
    plain = copy.deepcopy(converged).eval()
    plain.load_state_dict(objective.classification.model.state_dict())
    (evaluate,) = objective.classifiers().values()
    x = data[0][:2]
    with torch.no_grad():
        ours, theirs = (make_fx(each)(x) for each in (evaluate, plain))
        assert [n.target for n in ours.graph.nodes] == [n.target for n in theirs.graph.nodes]
        assert torch.equal(evaluate(x), plain(x))


def background(model, data, shown, known) -> float:
    """The share of the last block's relevance that is on patches of the background."""
    x, y, _ = data
    stream = passed(model.eval(), x)
    (found,) = token_relevance(stream, y, [1], graph=False)
    return off_share(received(found, stream.grid).detach()[known], shown[known]).item()


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


@pytest.mark.parametrize(
    ("masked", "seed"), [(False, 0), *(pytest.param(*p, marks=pytest.mark.slow) for p in REST)]
)
def test_the_first_stage_takes_relevance_off_the_background(converged, data, masked, seed):
    """Fact 9: less than in the blank arm, on images not trained on; two orders of the images."""
    unseen = draw(300, 1)
    if masked:
        shown, known = unseen[2][:, ::8, ::8].flatten(1), torch.ones(300, dtype=torch.bool)
    else:
        shown, known = calibration(converged, tokens=TokenTerm(10.0)).foreground(*unseen[:2])
    shares = []
    foreground = "masks" if masked else "derived"
    for terms in ({"tokens": TokenTerm(10.0, foreground=foreground)}, {}):
        arm = train(calibration(converged, **terms), data, 100, seed, masked, 3e-4)
        shares.append(background(arm.classification.model, unseen, shown, known))
    assert shares[0] < 0.8 * shares[1]


@pytest.mark.parametrize(
    ("feature", "seed"),
    [("hidden", 0), *(pytest.param("cls", seed, marks=pytest.mark.slow) for seed in (0, 1))],
)
def test_the_second_stage_takes_relevance_off_other_dimensions(converged, data, feature, seed):
    """Fact 9."""
    x, y, _ = draw(300, 1)
    blank = train(calibration(converged), data, 60, seed)
    stage = calibration(converged, dimensions=DimensionTerm(10.0, feature))
    stage.setup(reader(*data[:2]), len(data[0]))
    train(stage, data, 60, seed)
    shares = []
    for arm in (stage, blank):
        found = dimension_relevance(passed(arm.classification.model.eval(), x), y, feature)
        shares.append(off_share(found.detach(), stage.class_masks[y]).item())
    assert shares[0] < 0.8 * shares[1]


def test_the_upper_half_is_calibrated_where_asked(converged, data):
    x, y, masks = data
    batch = Batch([x[:8][None]], y[:8], masks=masks[:8])
    values = [
        calibration(converged, tokens=TokenTerm(10.0, layers=layers, foreground="masks"))
        .loss(batch, START)
        .value
        for layers in ("last", "upper")
    ]
    assert values[0] == values[1]  # of two blocks, the upper half is the last one
    assert list(TokenTerm(1.0, layers="upper").blocks(12)) == list(range(6, 12))
    assert list(TokenTerm(1.0).blocks(12)) == [11]


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
