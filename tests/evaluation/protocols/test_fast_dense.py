import json

import pytest
import torch
import yaml
from refusals import refused

from vitlab.data import VOC2012
from vitlab.encoders import Pixels, load_pretrained
from vitlab.evaluation.evaluate import evaluate
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
    protocol = FastDense(64)
    protocol.check(Pixels(16), colors)
    found = protocol.run(Pixels(16), colors, context())
    assert found.scores["miou"] > 60  # logits are enlarged smoothly, so borders are not exact
    assert found.scores["miou"] == found.counts.value
    assert found.predictions[0].shape == (64, 64)
    assert found.predictions[0].dtype == torch.uint8


def test_what_cannot_be_evaluated_is_refused(make, context):
    with refused(kind=ValueError):
        FastDense(50).check(Pixels(16), make())
    with refused(kind=ValueError):
        FastDense(64).run(Pixels(16), make(void=64), context())
    for options in ({"max_train_images": -1}, {"max_iter": 0}):
        with refused(f"protocol.{next(iter(options))}"):
            FastDense(**options)
