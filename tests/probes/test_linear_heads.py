import pytest
import torch
import torch.nn.functional as F
from refusals import refused
from torch import nn

from vitlab.optim.lr_schedule import CosineAnnealing, WarmupPoly
from vitlab.probes.linear_heads import Head, HeadConfig, HeadGrid, HeadSpec, image_loss, pixel_loss
from vitlab.probes.recipe import TrainingRecipe

CPU = torch.device("cpu")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PLANNED = [HeadSpec(*each, lr) for each in (("last", 6), ("two", 10)) for lr in (1e-2, 1e-1)]


def trained(
    planned: list[HeadSpec], layers: HeadConfig, optimizer: str, steps: int = 5
) -> HeadGrid:
    options = {"batch_size": 4, "iterations": steps, "weight_decay": 0.01}
    lrs = tuple(dict.fromkeys(head.lr for head in planned))
    recipe = TrainingRecipe(WarmupPoly(warmup_steps=2), optimizer, lrs, **options)
    heads = HeadGrid(planned, 3, layers, recipe, 7, CPU)
    masks = torch.randint(0, 3, (4, 9, 9), generator=torch.Generator().manual_seed(2))
    for step in range(steps):
        features = {"last": drawn(4, 9, 6, seed=step), "two": 3 * drawn(4, 9, 10, seed=step)}
        heads.step(features, pixel_loss(masks.to(torch.uint8), (3, 3)), recipe.progress(step, 4))
    return heads


@pytest.mark.parametrize(
    ("layers", "optimizer"),
    [
        (HeadConfig(), "adamw"),
        (HeadConfig(dropout=0.3), "sgd"),
        (HeadConfig(False, hidden_dim=8), "adamw"),
        (HeadConfig(False, init_std=0), "sgd"),
    ],
    ids=str,
)
def test_heads_that_are_trained_together_are_what_they_are_alone(
    layers: HeadConfig, optimizer: str
):
    together = trained(PLANNED, layers, optimizer)
    for planned in PLANNED:
        alone = trained([planned], layers, optimizer)
        for name, weight in alone.weights(planned.name).items():
            assert torch.equal(weight, together.weights(planned.name)[name]), name


def test_the_start_of_a_head_depends_on_its_name_and_the_seed_only():
    recipe = TrainingRecipe(CosineAnnealing(), lrs=(1e-2, 1e-1), iterations=1)

    def start(planned: list[HeadSpec], seed: int) -> torch.Tensor:
        torch.manual_seed(len(planned))
        heads = HeadGrid(planned, 3, HeadConfig(), recipe, seed, CPU)
        return heads.weights(PLANNED[1].name)["classify.weight"]

    assert torch.equal(start(PLANNED, 0), start(PLANNED[1:2], 0))  # drawn from no global generator
    assert not torch.equal(start(PLANNED, 0), start(PLANNED, 1))
    head = Head(400, 500, HeadConfig(init_std=0.01), torch.Generator().manual_seed(0))
    assert float(head.classify.weight.detach().std()) == pytest.approx(0.01, rel=0.01)
    assert not head.classify.bias.any()
    plain = Head(400, 500, HeadConfig(init_std=0), torch.Generator().manual_seed(0)).classify
    assert plain.weight.detach().abs().max() <= 1 / 20  # a convolution's: 1 / sqrt(inputs)
    assert float(plain.weight.detach().std()) == pytest.approx(1 / 20 / 3**0.5, rel=0.01)


@pytest.mark.parametrize("avg_non_ignore", [True, False])
def test_the_gradient_is_that_of_the_mean_over_pixels_of_bilinear_logits(avg_non_ignore):
    masks = torch.randint(0, 5, (6, 24, 40), generator=torch.Generator().manual_seed(0))
    masks[masks == 4] = 255
    logits = drawn(6, 3 * 5, 4).requires_grad_()
    pixel_loss(masks.to(torch.uint8), (3, 5), avg_non_ignore)(logits)
    reference = logits.detach().clone().requires_grad_()
    large = F.interpolate(reference.transpose(1, 2).unflatten(2, (3, 5)), (24, 40), mode="bilinear")
    losses = F.cross_entropy(large, masks, ignore_index=255, reduction="none")
    # mmsegmentation 0.27 and 0.30, and DINOv3: weight_reduce_loss without an avg_factor is mean()
    (losses.sum() / (masks != 255).sum() if avg_non_ignore else losses.mean()).backward()
    assert torch.allclose(logits.grad, reference.grad, rtol=1e-5, atol=1e-8)
    void = torch.full((6, 24, 40), 255, dtype=torch.uint8)  # moves nothing
    logits.grad = None
    pixel_loss(void, (3, 5), avg_non_ignore)(logits)
    assert not logits.grad.any()


def test_the_norm_sees_the_whole_batch():
    head = Head(4, 3, HeadConfig(), torch.Generator()).train()
    x = 5 + 2 * drawn(6, 9, 4)
    head(x)
    assert head.norm is not None
    rows = x.flatten(0, 1)
    assert torch.allclose(head.norm.running_mean, 0.1 * rows.mean(0), atol=1e-5)
    assert torch.allclose(head.norm.running_var, 0.9 + 0.1 * rows.var(0), atol=1e-4)


def test_the_small_network_is_that_of_convolutions():
    head = Head(6, 4, HeadConfig(norm=False, hidden_dim=8), torch.Generator().manual_seed(0))
    assert head.hidden is not None
    convolutions = nn.Sequential(
        nn.Conv2d(6, 8, 1, bias=False), nn.GroupNorm(1, 8), nn.GELU(), nn.Conv2d(8, 4, 1)
    )
    convolutions[0].weight.data = head.hidden.weight.data[..., None, None]
    convolutions[3].weight.data = head.classify.weight.data[..., None, None]
    convolutions[3].bias.data = head.classify.bias.data
    x = drawn(2, 6, 5, 3)
    expected = convolutions(x).flatten(2).transpose(1, 2)
    assert torch.allclose(head(x.flatten(2).transpose(1, 2)), expected, atol=1e-6)


def test_dropout_leaves_out_whole_channels_in_training_only():
    head = Head(
        50, 2, HeadConfig(norm=False, dropout=0.5, init_std=1), torch.Generator().manual_seed(0)
    )
    x = torch.ones(3, 4, 50)
    dropped = head.train()(x, torch.Generator().manual_seed(1))
    assert torch.allclose(dropped, dropped[:, :1].expand_as(dropped))  # alike for all patches
    assert not torch.allclose(dropped[0], dropped[1])
    assert torch.allclose(head.eval()(x), x @ head.classify.weight.T)
    recipe = TrainingRecipe(CosineAnnealing(), "sgd", (1e-30,), batch_size=3, iterations=2)
    heads = HeadGrid([HeadSpec("x", 50, 1e-30)], 2, HeadConfig(False, 0.5), recipe, 0, CPU)
    seen = []

    def record(logits: torch.Tensor) -> None:
        seen.append(logits.detach())
        image_loss(torch.tensor([0, 1, 0]))(logits)

    for step in range(2):  # drawn anew in every step
        heads.step({"x": x}, record, recipe.progress(step, 3))
    assert not torch.equal(*seen)


def test_impossible_settings_are_refused():
    for wrong in ({"dropout": 1.0}, {"hidden_dim": -1}, {"init_std": -0.1}):
        with refused("protocol.layers"):
            HeadConfig(**wrong)
