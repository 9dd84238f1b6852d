import pytest
import torch
from torch import nn

from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig
from vitlab.optim.clipping import clip_global, clip_per_parameter
from vitlab.optim.lr_schedule import LRSchedule
from vitlab.optim.optimizer import ParamGroups
from vitlab.optim.schedules import Progress
from vitlab.training import OptimizerConfig


def test_only_long_gradients_are_shortened_each_by_itself():
    long, short, without = (nn.Parameter(torch.zeros(4)) for _ in range(3))
    long.grad, short.grad = torch.full((4,), 3.0), torch.full((4,), 0.5)
    norm = clip_per_parameter([long, short, without], 3.0)
    assert float(long.grad.norm()) == pytest.approx(3.0, rel=1e-6)
    assert float(short.grad.norm()) == 1.0
    assert without.grad is None
    assert float(norm) == pytest.approx(37**0.5)


def test_no_limit_leaves_gradients_alone():
    parameter = nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 30.0)
    clip_per_parameter([parameter], 0.0)
    assert float(parameter.grad.norm()) == 60.0


@pytest.mark.parametrize(
    ("frozen", "tensors", "elements"),
    [(True, (55, 102), (43_886_848, 65_408)), (False, (56, 102), (43_952_384, 65_408))],
)
def test_parameter_groups_are_those_of_dino(frozen, tensors, elements):
    with torch.device("meta"):
        objective = DINO(ViT("S"), DINOHeadConfig(norm_last_layer=frozen))
    groups = OptimizerConfig().build(objective).param_groups
    assert tuple(len(group["params"]) for group in groups) == tensors
    assert tuple(sum(p.numel() for p in group["params"]) for group in groups) == elements
    assert groups[1]["weight_decay"] == 0


def test_the_rate_follows_the_batch_and_both_schedules_reach_the_groups():
    module = nn.Linear(2, 2)
    settings = OptimizerConfig()
    optimizer = settings.build(module)
    progress = Progress(25_020, 500_400, 200, 512)
    settings.apply_schedules(optimizer, progress)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3, rel=1e-12)
    assert optimizer.param_groups[1]["lr"] == optimizer.param_groups[0]["lr"]
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(
        settings.weight_decay_at(progress)
    )
    assert optimizer.param_groups[1]["weight_decay"] == 0
    half = Progress(50_040, 1_000_800, 200, 256)
    assert settings.lr_at(half) == pytest.approx(5e-4, rel=1e-12)


def test_all_gradients_can_be_shortened_by_one_factor():
    first, second, without = (nn.Parameter(torch.zeros(4)) for _ in range(3))
    first.grad, second.grad = torch.full((4,), 3.0), torch.full((4,), 4.0)
    norm = OptimizerConfig(clip_grad_norm=5.0, clip_mode="global").clip([first, second, without])
    assert float(norm) == pytest.approx(10.0)
    assert float(first.grad.norm()) == pytest.approx(3.0, rel=1e-5)
    assert float(second.grad.norm()) == pytest.approx(4.0, rel=1e-5)
    assert float(clip_global([first, second], 0.0)) == pytest.approx(5.0, rel=1e-5)
    assert float(second.grad.norm()) == pytest.approx(4.0, rel=1e-5)


def test_positions_and_tokens_can_be_spared_from_decay():
    model = ViT("nano", 8, 32, num_registers=2)
    groups = OptimizerConfig(param_groups=ParamGroups(decay_tokens=False)).build(model).param_groups
    spared = {id(p) for p in groups[1]["params"]}
    for name, parameter in model.named_parameters():
        token = name in ("cls_token", "pos_embed", "reg_token")
        assert (id(parameter) in spared) == (parameter.ndim <= 1 or token), name


def test_an_independent_decay_takes_its_share_at_the_peak():
    settings = OptimizerConfig(
        lr=1e-3, min_lr=0.0, warmup_epochs=0, weight_decay=1e-4, final_weight_decay=1e-4,
        lr_schedule=LRSchedule(base_batch_size=1024), param_groups=ParamGroups(independent_decay=True),
    )  # fmt: skip
    module = nn.Linear(2, 2, bias=False)
    before = module.weight.detach().clone()
    optimizer = settings.build(module)
    settings.apply_schedules(optimizer, Progress(0, 100, 10, 1024))
    module.weight.grad = torch.zeros_like(module.weight)
    optimizer.step()
    assert torch.allclose(module.weight, before * (1 - 1e-4), rtol=1e-6)


def test_lamb_is_timms_with_the_schedules_of_every_optimizer():
    settings = OptimizerConfig(
        name="lamb", lr=4e-3, lr_schedule=LRSchedule(base_batch_size=0), weight_decay=0.05
    )
    module = nn.Linear(2, 2)
    optimizer = settings.build(module)
    assert type(optimizer).__name__ == "Lamb"
    assert optimizer.defaults["eps"] == 1e-8
    settings.apply_schedules(optimizer, Progress(1000, 5000, 50, 2048))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4e-3)
    assert optimizer.param_groups[1]["weight_decay"] == 0
    with pytest.raises(ValueError, match="independent"):
        OptimizerConfig(name="lamb", param_groups=ParamGroups(independent_decay=True))
