import json

import pytest
import torch
import yaml
from refusals import refused

from vitlab.data import VOC2012
from vitlab.encoders import Pixels, load_pretrained
from vitlab.evaluation.evaluate import check, evaluate
from vitlab.evaluation.protocols import FastDense


@pytest.mark.slow
def test_the_command_gives_the_figure_of_the_callback(fit, drawn, context):
    folder = fit()
    rows = json.loads((folder / "measurements.json").read_text())
    data = VOC2012(str(drawn / "VOCdevkit"), max_unreadable=0)
    encoder = load_pretrained(folder / "last.ckpt", which="teacher").encoder
    size = yaml.safe_load((folder / "config.yaml").read_text())["probing"]["dense_size"]
    found = evaluate(encoder, FastDense(size), data, context(3))
    assert found.scores["miou"] == pytest.approx(rows[-1]["scores"]["miou/voc2012"], abs=1e-3)


def test_colors_that_are_classes_are_all_but_found(colors, context):
    found = evaluate(Pixels(16), FastDense(64), colors, context())
    assert found.scores["miou"] > 60  # logits are enlarged smoothly, so borders are not exact
    assert found.scores["miou"] == found.counts.value
    assert found.predictions[0].shape == (64, 64)
    assert found.predictions[0].dtype == torch.uint8


@pytest.mark.parametrize("name", ["max_train_images", "tolerance", "weight_decay", "size"])
def test_what_cannot_be_evaluated_is_refused(colors, name):
    with refused(f"protocol.{name}"):
        check(Pixels(16), FastDense(**{name: 50 if name == "size" else -1}), colors)
