"""Prompt tuning: identities first; loss, settings and counts of TCPA (arXiv:2505.02406)."""

import pytest
import torch
import torch.nn.functional as F
from refusals import refused

from vitlab.encoders import Locality, Pool, PromptedViT, Prompts, ViT, record
from vitlab.objectives import Classification, KeyMatching, Mixup, PromptTuning, RandomErasing
from vitlab.optim.schedules import Progress

TCPA = Prompts(cls=Pool(4, top_k=2), patches=Pool(5, top_k=3), dropout=0)
R_TCPA = Prompts(cls=Pool(4), patches=Pool(5), dropout=0)
VPT = Prompts(shared=5, dropout=0)
LATE = Progress(90, 100, 10, 4)
UNMIXED = Mixup(0, 0)


def build(prompts=TCPA, classes=5, encoder=None, **options):
    torch.manual_seed(0)
    return PromptTuning(
        PromptedViT(ViT("nano", 8, 32, **(encoder or {})), prompts), classes, **options
    )


def step(objective, batch, progress=LATE, rate=1e-2, decay=0.0):
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    objective.loss(batch, progress).value.backward()
    optimizer.step()


def test_the_loss_is_that_of_the_formula(labeled):
    objective = build(mixup=UNMIXED)
    encoder = objective.encoder
    with record(encoder, "prompts.mismatch") as mismatches:
        logits = objective.model(labeled.views[0][0])
    expected = F.cross_entropy(logits, labeled.labels, label_smoothing=0.1)
    found = objective.loss(labeled, LATE)
    torch.testing.assert_close(found.value, expected + 0.01 * sum(mismatches))
    torch.testing.assert_close(found.logs["prompts/mismatch"], sum(mismatches).detach())
    assert len(mismatches) == 2


def test_without_prompts_it_is_classification_with_a_frozen_encoder(labeled):
    probe = build(Prompts(), mixup=UNMIXED)
    torch.manual_seed(0)
    plain = Classification(
        ViT("nano", 8, 32), 5, mixup=UNMIXED, random_erasing=RandomErasing(0.0), ema_decay=0.0
    ).eval()
    assert probe.loss(labeled, LATE).value.equal(plain.loss(labeled, LATE).value)
    trained = [name for name, p in probe.named_parameters() if p.requires_grad]
    assert trained == ["model.head.weight", "model.head.bias"]


@pytest.mark.parametrize("prompts", [VPT, R_TCPA, TCPA], ids=["VPT", "R", "T"])
def test_fact_7_a_step_moves_head_and_prompts_and_no_bit_of_the_backbone(labeled, prompts):
    objective = build(prompts, encoder={"drop_path": 0.5, "locality": Locality("gaussian")})
    before = {k: v.clone() for k, v in objective.encoder.backbone.state_dict().items()}
    head = objective.model.head.weight.clone()
    for _ in range(2):
        step(objective, labeled, decay=0.5)
    assert not objective.model.head.weight.equal(head)
    for name, tensor in objective.encoder.backbone.state_dict().items():
        assert tensor.equal(before[name]) == (".prompts." not in name), name


def test_the_first_tenth_of_a_run_draws_entries_and_the_rest_chooses(labeled):
    """Epochs 0 to 9 of 100; facts of the phase follow progress alone, so a resumed run has them."""
    objective = build()

    def chosen(progress):
        with record(objective.encoder, "prompts.patches.chosen") as found:
            objective.loss(labeled, progress)
        return found[0]

    for epochs, per_epoch in ((100, 7), (5, 10), (1, 30)):
        steps = epochs * per_epoch
        last = Progress(steps // 10 - 1, steps, epochs, 4)
        first = Progress(steps // 10, steps, epochs, 4)
        assert (objective.draws_at_random(last), objective.draws_at_random(first)) == (True, False)
        assert not chosen(last).equal(chosen(last))
        assert objective.schedules(first) == {"prompts/random": 0.0}
    objective.mixup = UNMIXED
    assert chosen(first).equal(chosen(first))
    assert not build(matching=KeyMatching(random_fraction=0)).draws_at_random(Progress(0, 10, 1, 4))


def test_bad_input_is_refused(labeled):
    for field, make in (
        ("encoder", lambda: PromptTuning(ViT("nano", 8, 32), 5)),
        ("matching", lambda: build(VPT, matching=KeyMatching(0.1))),
        ("matching.weight", lambda: KeyMatching(-1)),
        ("matching.random_fraction", lambda: KeyMatching(random_fraction=10)),
    ):
        with refused(f"model.objective.{field}"):
            make()
