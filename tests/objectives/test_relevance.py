"""Zero cases and references, then derivatives of derivatives, with every normalizer."""

import pytest
import torch

from vitlab.encoders import CLSSpecialization, Locality, Normalizer, ViT
from vitlab.objectives.calibration.relevance import (
    dimension_relevance,
    foreground,
    masked_foreground,
    received,
    record_stream,
    token_relevance,
)
from vitlab.objectives.calibration.terms import background_loss, dimension_loss
from vitlab.objectives.classification import Classifier

NORMALIZERS = ["softmax", "entmax15", "sparsemax", Normalizer(1.25), Normalizer(1.5, 2.0)]
LABELS = torch.tensor([0, 3])


def classifier(dtype=torch.float64, **options):
    torch.manual_seed(0)
    model = Classifier(ViT("nano", 8, 32, **options), 5).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # as drawn, attention is so flat that nothing depends on it
            parameter.mul_(8.0 if parameter.ndim > 1 and "qkv" in name else 3.0)
    return model


def images(dtype=torch.float64):
    return torch.randn(2, 3, 32, 32, dtype=dtype, generator=torch.Generator().manual_seed(1))


def passed(model, x):
    with record_stream(model) as stream:
        model(x)
    return stream


@pytest.mark.parametrize("normalizer", NORMALIZERS, ids=str)
def test_r_is_the_mean_over_heads_of_slope_times_weight(normalizer):
    stream = passed(classifier(normalizer=normalizer), images())
    found = token_relevance(stream, LABELS, [0, 1])
    assert all((r >= 0).all() and r.shape == (2, 17, 17) for r in found)
    logits = stream.calls[0].returned
    slopes = torch.autograd.grad(logits[0, 0] + logits[1, 3], stream.weights)
    for r, slope, weight in zip(found, slopes, stream.weights, strict=True):
        torch.testing.assert_close(r, (slope.relu() * weight).mean(1))


def test_cls_and_registers_are_no_patches():
    model = classifier(num_registers=3)
    stream = passed(model, images())
    (found,) = token_relevance(stream, LABELS, [1])
    assert found.shape == (2, 20, 20)
    assert torch.equal(received(found, stream.grid), found.sum(1)[:, 4:])


def test_background_relevance_has_its_zero_cases_and_its_total():
    relevance = torch.rand(2, 16)
    everything, nothing = torch.ones(2, 16, dtype=torch.bool), torch.zeros(2, 16, dtype=torch.bool)
    known, unknown = torch.tensor([True, True]), torch.tensor([False, False])
    assert background_loss(relevance, everything, known) == 0
    assert background_loss(relevance, nothing, unknown) == 0
    assert background_loss(torch.zeros(2, 16), nothing, known) == 0
    total = background_loss(relevance, nothing, known)
    assert total.item() == pytest.approx(relevance.sum().item() / 2)
    one = background_loss(relevance, nothing, torch.tensor([True, False]))
    assert one.item() == pytest.approx(relevance[0].sum().item())


def test_derived_foreground_is_the_row_of_cls_in_the_product_over_blocks():
    found = [torch.rand(2, 17, 17, dtype=torch.float64) for _ in range(3)]
    eye = torch.eye(17, dtype=torch.float64)
    product = (eye + found[2]) @ (eye + found[1]) @ (eye + found[0])
    row = product[:, 0, 1:]
    low, high = row.amin(1, keepdim=True), row.amax(1, keepdim=True)
    expected = (row - low) / (high - low) >= 0.15
    assert torch.equal(foreground(found, (4, 4), 0.15), expected)
    assert foreground(found, (4, 4), 0.0).all()
    assert (foreground(found, (4, 4), 1.0).sum(1) == 1).all()
    assert foreground([torch.zeros(2, 17, 17)], (4, 4), 0.15).all()  # where all are equal
    mask = torch.zeros(1, 224, 224, dtype=torch.bool)
    mask[0, 0, 0] = True  # one pixel makes exactly one patch foreground
    assert masked_foreground(mask, 16).nonzero().tolist() == [[0, 0]]


@pytest.mark.parametrize(
    "option", [{}, {"cls_specialization": CLSSpecialization(mlp=1.0)}, {"num_registers": 2}]
)
def test_dimension_relevance_is_slope_times_activation_of_cls(option):
    model = classifier(**option)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_cls" in name:
                parameter.mul_(1.1)
    stream = passed(model, images())
    found = dimension_relevance(stream, LABELS, "hidden")
    assert found.shape == (2, 128)
    assert (found >= 0).all()
    of_cls, cls = dimension_relevance(stream, LABELS, "cls"), model.encoder(images()).cls
    assert torch.allclose(of_cls, model.head.weight[LABELS].relu() * cls.relu())
    z = stream.hidden[-1]
    (slope,) = torch.autograd.grad(
        stream.calls[0].returned[0, 0] + stream.calls[0].returned[1, 3], z
    )
    assert torch.allclose(found, slope[:, 0].relu() * z[:, 0].relu())
    assert found.sum() > 0


def losses(model, x, kept, shown):
    stream = passed(model, x)
    known = torch.ones(2, dtype=torch.bool)
    found = [received(r, stream.grid) for r in token_relevance(stream, LABELS, [0, 1])]
    background = torch.stack([background_loss(r, shown, known) for r in found]).mean()
    return background, dimension_loss(dimension_relevance(stream, LABELS, "hidden"), kept)


OPTIONS = {
    **{f"normalizer-{n}": {"normalizer": n} for n in NORMALIZERS},
    "refined": {"locality": Locality(kind="gaussian", refine=True)},
    "specialized": {"cls_specialization": CLSSpecialization(norm=1.0, qkv=1.0, proj=1.0, mlp=1.0)},
    "scaled": {"layer_scale": 0.5},
    "registers": {"num_registers": 2},
}


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_gradients_of_both_terms_are_those_of_finite_differences(option):
    """In fp64 on two blocks, along the gradient."""
    model = classifier(**option)
    g = torch.Generator().manual_seed(2)
    kept, shown = torch.rand(2, 128, generator=g) > 0.5, torch.rand(2, 16, generator=g) > 0.5
    parameters = list(model.parameters())
    for index in range(2):
        value = losses(model, images(), kept, shown)[index]
        assert value > 0
        gradient = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
        norm = torch.stack([d.norm() for d in gradient]).norm()
        direction = [d / norm for d in gradient]
        slope = sum((d * u).sum() for d, u in zip(gradient, direction, strict=True))
        numbers = []
        for step in (1e-6, -2e-6, 1e-6):
            with torch.no_grad():
                torch._foreach_add_(parameters, direction, alpha=step)
            numbers.append(losses(model, images(), kept, shown)[index].item())
        measured = (numbers[0] - numbers[1]) / 2e-6
        assert slope.item() == pytest.approx(measured, rel=1e-3)
