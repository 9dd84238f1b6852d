"""The normalizer as an option of the encoder."""

import torch
from jsonargparse import ArgumentParser
from refusals import refused

from vitlab.encoders import Encoder, Normalizer, record
from vitlab.encoders.entmax.normalizer import NORMALIZERS, SOFTMAX, get_normalizer


def test_sharpness_alone_leaves_no_zero_and_blocks_choose_who_is_sparse(build, images, same_tokens):
    recorded = {}
    for normalizer in (SOFTMAX, Normalizer(1, sharpness=2), Normalizer(2, blocks=(0, 2))):
        vit = build(normalizer=normalizer)
        with torch.no_grad(), record(vit, "attn.weights") as recorded[normalizer]:
            vit(images)
    plain, sharp, some = recorded.values()
    assert sharp[0].amax(-1).mean() > plain[0].amax(-1).mean()
    assert (sharp[0] > 0).all()
    assert [bool((w == 0).any()) for w in some] == [True, False, True]
    assert [b.attn.normalizer for b in vit.blocks] == [Normalizer(2), SOFTMAX, Normalizer(2)]
    for name, normalizer in NORMALIZERS.items():  # a name is a member of the family
        same_tokens(build(normalizer=normalizer)(images), build(normalizer=name)(images))


def test_what_is_no_member_of_the_family_is_refused(build):
    for options in (
        {"alpha": 0.99},
        {"alpha": 2.01},
        {"alpha": float("nan")},
        {"sharpness": 0.0},
        {"sharpness": float("inf")},
        {"alpha": 1, "blocks": (1,)},
    ):
        with refused(f"normalizer.{list(options)[-1]}"):
            Normalizer(**options)
    for blocks in ((3,), (-1,), (0, 7)):
        with refused("normalizer.blocks"):
            build(normalizer=Normalizer(blocks=blocks))
    with refused("normalizer"):  # beneath the checks of types
        getattr(get_normalizer, "__wrapped__", get_normalizer)("sigmoid")


def test_yaml_spells_it_out_and_the_command_line_changes_it(tmp_path):
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--encoder", type=Encoder)
    options = "{size: nano, normalizer: {alpha: 1.25, sharpness: 2, blocks: [0, 2]}}"
    (tmp_path / "config.yaml").write_text(
        f"encoder: {{class_path: vitlab.encoders.ViT, init_args: {options}}}"
    )
    words = ["--config", str(tmp_path / "config.yaml")]
    encoder = parser.instantiate(parser.parse_args(words)).encoder
    assert encoder.config["normalizer"] == Normalizer(1.25, 2, blocks=(0, 2))
    words += ["--encoder.init_args.normalizer", "softmax"]
    assert parser.instantiate(parser.parse_args(words)).encoder.config["normalizer"] == "softmax"
