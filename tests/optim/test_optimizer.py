import pytest
import torch
from refusals import refused
from torch import nn

from vitlab.encoders import ViT
from vitlab.objectives import DINO, DINOHeadConfig
from vitlab.optim import LRSchedule, OptimizerConfig, ParamGroups
from vitlab.optim.optimizer import clip_global, clip_per_parameter
from vitlab.optim.schedules import Progress


def test_clipping_per_parameter_is_torchs_for_each():
    g = torch.Generator().manual_seed(0)
    ours, theirs = ([nn.Parameter(torch.zeros(7, 5)) for _ in range(6)] for _ in range(2))
    for a, b in zip(ours, theirs, strict=True):
        a.grad = torch.randn(7, 5, generator=g)
        b.grad = a.grad.clone()
    norm = torch.stack([a.grad for a in ours]).norm()
    without = nn.Parameter(torch.zeros(4))
    for limit in (0.0, 5.9):  # 0 only measures
        if limit:
            shortened = [bool(nn.utils.clip_grad_norm_([b], limit) > limit) for b in theirs]
            assert any(shortened)
            assert not all(shortened)
        assert float(clip_per_parameter([*ours, without], limit)) == pytest.approx(float(norm))
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))
    assert without.grad is None


def test_clipping_by_the_global_norm_has_one_factor():
    first, second, without = (nn.Parameter(torch.zeros(4)) for _ in range(3))
    first.grad, second.grad = torch.full((4,), 3.0), torch.full((4,), 4.0)
    config = OptimizerConfig(clip_grad_norm=5.0, clip_mode="global")
    assert float(config.clip([first, second, without])) == pytest.approx(10.0)
    assert float(first.grad.norm()) == pytest.approx(3.0, rel=1e-5)
    assert float(second.grad.norm()) == pytest.approx(4.0, rel=1e-5)
    assert float(clip_global([first, second], 0.0)) == pytest.approx(5.0, rel=1e-5)


def test_parameter_groups_are_those_of_dino():
    for frozen, tensors, elements in (
        (True, (55, 102), (43_886_848, 65_408)),
        (False, (56, 102), (43_952_384, 65_408)),
    ):
        with torch.device("meta"):
            objective = DINO(ViT("S"), DINOHeadConfig(norm_last_layer=frozen))
        groups = OptimizerConfig().build(objective).param_groups
        assert tuple(len(group["params"]) for group in groups) == tensors
        assert tuple(sum(p.numel() for p in group["params"]) for group in groups) == elements
        assert groups[1]["weight_decay"] == 0
    model = ViT("nano", 8, 32, num_registers=2)
    groups = OptimizerConfig(param_groups=ParamGroups(decay_tokens=False)).build(model).param_groups
    undecayed = {id(p) for p in groups[1]["params"]}
    for name, parameter in model.named_parameters():
        token = name in ("cls_token", "pos_embed", "reg_token")
        assert (id(parameter) in undecayed) == (parameter.ndim <= 1 or token), name


def test_schedules_follow_the_batch_size_and_reach_the_groups():
    config = OptimizerConfig()
    optimizer = config.build(nn.Linear(2, 2))
    progress = Progress(25_020, 500_400, 200, 512)
    config.apply_schedules(optimizer, progress)
    decayed, undecayed = optimizer.param_groups
    assert decayed["lr"] == undecayed["lr"] == pytest.approx(1e-3, rel=1e-12)
    assert decayed["weight_decay"] == config.weight_decay_at(progress)
    assert undecayed["weight_decay"] == 0
    assert decayed["fused"]
    half = Progress(50_040, 1_000_800, 200, 256)
    assert config.lr_at(half) == pytest.approx(5e-4, rel=1e-12)


def test_scaled_gradients_are_clipped_after_unscaling():
    """So the optimizer must not unscale them itself; otherwise it is torch's fused AdamW."""
    module, plain = nn.Linear(2, 2), nn.Linear(2, 2)
    plain.load_state_dict(module.state_dict())
    config = OptimizerConfig(clip_grad_norm=0.5)
    ours, theirs = config.build(module), torch.optim.AdamW(plain.parameters(), 1e-2, fused=True)
    assert not getattr(ours, "_step_supports_amp_scaling", False)
    for group in ours.param_groups:
        group.update(lr=1e-2, weight_decay=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        scaler.scale(module(torch.ones(1, 2)).square().sum()).backward()
        scaler.unscale_(ours)
        plain(torch.ones(1, 2)).square().sum().backward()
        for each in (module, plain):
            config.clip(each.parameters())
        scaler.step(ours)
        scaler.update()
        theirs.step()
        for each in (ours, theirs):
            each.zero_grad()
    assert all(map(torch.equal, module.parameters(), plain.parameters()))


def test_an_independent_decay_is_the_share_of_a_step_at_the_peak():
    config = OptimizerConfig(
        *(1e-3, 0.0, 0, 1e-4, 1e-4),
        lr_schedule=LRSchedule(base_batch_size=1024),
        param_groups=ParamGroups(independent_decay=True),
    )
    module = nn.Linear(2, 2, bias=False)
    before = module.weight.detach().clone()
    optimizer = config.build(module)
    config.apply_schedules(optimizer, Progress(0, 100, 10, 1024))
    module.weight.grad = torch.zeros_like(module.weight)
    optimizer.step()
    assert torch.allclose(module.weight, before * (1 - 1e-4), rtol=1e-6)


def test_lamb_is_timms_with_the_schedules_of_every_optimizer():
    plain = LRSchedule(base_batch_size=0)
    config = OptimizerConfig(name="lamb", lr=4e-3, lr_schedule=plain, weight_decay=0.05)
    optimizer = config.build(nn.Linear(2, 2))
    assert type(optimizer).__name__ == "Lamb"
    assert optimizer.defaults["eps"] == 1e-8
    config.apply_schedules(optimizer, Progress(1000, 5000, 50, 2048))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4e-3)
    assert optimizer.param_groups[1]["weight_decay"] == 0
    with refused("model.optimizer.param_groups.independent_decay"):
        OptimizerConfig(name="lamb", param_groups=ParamGroups(independent_decay=True))
