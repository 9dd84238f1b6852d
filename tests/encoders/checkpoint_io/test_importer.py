"""What is refused, and what a report says."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vitlab.encoders import CLSSpecialization, Locality, ViT, load_pretrained


class Code:
    """A pickle that would run something."""

    def __reduce__(self):
        return (Path.touch, (Path("run-by-a-pickle"),))


def refuse(match, *given, **options):
    with pytest.raises(ValueError, match=match):
        load_pretrained(*given, **options)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch, dino, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({**dino, "x": Code()}, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    refuse(
        r"bad\.pth is refused: reading it would run getattr.*save the model's state_dict", "bad.pth"
    )
    assert not (tmp_path / "run-by-a-pickle").exists()


def test_a_bare_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Code()))
    refuse(r"bad\.pth", tmp_path / "bad.pth")
    assert not (tmp_path / "run-by-a-pickle").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(write, dino, name, share):
    path = write(dino, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refuse(rf"{name}.*copy it again", path, "dino")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "readme.md").write_text("# Weights\n" * 40)
    refuse("neither a checkpoint of torch nor a whole safetensors", tmp_path / "readme.md")
    refuse("there is no file", tmp_path / "nothing.pth")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/best.ckpt").touch()
    refuse(r"name a file in it: best\.ckpt", tmp_path / "run")


def test_a_header_that_begins_like_a_pickle_is_still_safetensors(tmp_path, dino):
    for length in range(64):
        path = tmp_path / f"{length}.safetensors"
        save_file(dino, path, {"comment": "x" * 8 * length})
        if path.read_bytes()[:1] == b"\x80":
            assert load_pretrained(path, "dino").report.full
            return
    pytest.fail("no header of such a length")


def test_a_file_without_tensors_is_refused(write):
    refuse("holds no tensors but 'epoch'", write({"epoch": 3}))
    refuse("holds a list, not a dictionary", write([torch.zeros(2)]))


def test_a_resnet_is_refused(write):
    state = {"conv1.weight": torch.zeros(4, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(4)}
    refuse("not a vision transformer.*conv1.weight", write(state))


def test_a_teacher_asked_of_a_backbone_is_refused(write, dino):
    refuse("which='teacher' is asked.*without a name; leave it out", write(dino), which="teacher")


def test_one_of_several_models_must_be_chosen(write, dino):
    state = {f"module.backbone.{key}": value for key, value in dino.items()}
    path = write({"student": state, "teacher": state})
    refuse("several models: student, teacher; choose one", path)
    refuse("which='ema' is asked.*choose one of student, teacher", path, which="ema")
    assert load_pretrained(path, which="student").branch == "student"


def test_weights_that_could_be_of_two_families_must_be_named(write, dino):
    path = write(dino)
    refuse("could be of dino or timm, which differ in how positions are resampled", path)
    assert load_pretrained(path, "dino").encoder.config["pos_interpolation"] == "dino"
    assert load_pretrained(path, "timm").encoder.config["pos_interpolation"] == "antialias"


def test_a_wrong_family_is_refused(write, dino):
    path = write({**dino, "mask_token": torch.zeros(1, 32)})
    refuse("family='dino' is asked.*those of dinov2", path, "dino")


def test_weights_of_others_are_not_taken_for_ours(write, dino):
    refuse("neither a checkpoint of `vitlab fit`", write(dino), "vitlab")
    refuse("neither a checkpoint of `vitlab fit`", write({"model": dino}), "vitlab")
    lightning = {"pytorch-lightning_version": "2.6", "state_dict": dino}
    refuse("not of a `vitlab fit` of a ViT", write(lightning))


def test_sizes_that_no_encoder_has_are_refused(write, dino):
    one_block = {key: value for key, value in dino.items() if "blocks.2" not in key}
    refuse("32 wide with 2 blocks.*nano .32 and 3", write(one_block), "dino")
    wide = {**dino, "pos_embed": dino["pos_embed"][:, :-1]}
    refuse("has 16 positions, of which 1 are", write(wide), "dino")


def test_parts_that_the_encoder_lacks_are_named(write, dino):
    swiglu = {**dino, "mask_token": torch.zeros(1, 32), "blocks.0.mlp.w12.weight": torch.ones(2)}
    refuse(r"SwiGLU", write(swiglu))
    normed = {**dino, "blocks.0.attn.q_norm.weight": torch.ones(16)}
    refuse("normalized queries", write(normed), "timm")


def test_coverage_must_be_full_unless_the_caller_says_otherwise(write, dino):
    del dino["blocks.1.attn.qkv.bias"]
    path = write({**dino, "blocks.1.attn.extra": torch.ones(2)})
    refuse(
        r"1 missing \(blocks.1.attn.qkv.bias\); 1 unexpected \(blocks.1.attn.extra\).*partial=True",
        path,
        "dino",
    )
    imported = load_pretrained(path, "dino", partial=True)
    assert imported.report.missing_keys == ("blocks.1.attn.qkv.bias",)
    assert imported.report.unexpected_keys == ("blocks.1.attn.extra",)
    assert len(imported.report.matched) == len(imported.encoder.state_dict()) - 1
    # such a bias starts at 0, which is what a layer without one computes
    assert not imported.encoder.get_parameter("blocks.1.attn.qkv.bias").any()


def test_reading_draws_nothing_from_the_random_stream(write, dino):
    path = write(dino)
    before = torch.get_rng_state()
    load_pretrained(path, "dino")
    assert torch.get_rng_state().equal(before)


def test_copies_that_are_to_be_drawn_are_not_filled_from_plain_weights(write, dino, build):
    into = build(
        cls_specialization=CLSSpecialization(qkv=0.334, init="random"), pos_interpolation="dino"
    )
    with pytest.raises(ValueError, match="use init clone"):
        load_pretrained(write(dino), "dino", into=into)


def test_an_encoder_can_be_filled_that_specializes(write, dino, build, same):
    path = write(dino)
    into = build(
        cls_specialization=CLSSpecialization(norm=1, qkv=0.334, final_norm=True),
        pos_interpolation="dino",
    )
    imported = load_pretrained(path, "dino", into=into)
    assert imported.encoder is into
    assert imported.report.full
    assert "blocks.0.attn.qkv_cls.weight" in imported.report.copied
    assert "norm_cls.bias" in imported.report.copied
    # a split encoder whose copies are equal computes what the plain one does
    plain = load_pretrained(path, "dino").encoder
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(into(images).cls, plain(images).cls, rtol=0, atol=1e-5)


def test_what_an_option_adds_is_missing_from_plain_weights(write, dino, build):
    path = write(dino)
    into = build(locality=Locality("gaussian"), num_registers=2)
    refuse("missing.*reg_token", path, "dino", into=into)
    kept = into.state_dict()["reg_token"].clone()
    report = load_pretrained(path, "dino", into=into, partial=True).report
    assert len(report.missing_keys) == 1 + 3 * 4
    assert into.reg_token is not None
    assert into.reg_token.equal(kept)


def test_positions_follow_the_grid_of_a_given_encoder(write, dino):
    into = ViT("nano", 8, 48)
    report = load_pretrained(write(dino), "dino", into=into).report
    assert report.resized == ("pos_embed",)
    expected = load_pretrained(write(dino), "dino", img_size=48).encoder
    assert into.pos_embed.equal(expected.pos_embed)


def test_an_encoder_of_another_size_is_not_filled(write, dino):
    path = write(dino)
    refuse("of another size than the encoder", path, "dino", into=ViT("nano", 16, 32))
    refuse("leave img_size out", path, "dino", img_size=48, into=ViT("nano", 8, 32))
    refuse("not a multiple of patch 8", path, "dino", img_size=33)


def test_a_report_reads_as_a_sentence(write, dino):
    content = {"teacher": {f"backbone.{k}": v for k, v in dino.items()}}
    content["teacher"]["head.mlp.0.bias"] = torch.ones(2)
    report = load_pretrained(write(content), img_size=64).report
    assert str(report) == (
        "42 tensors read; 1 resized (pos_embed); "
        "1 left out (head of pretraining, beside the backbone)"
    )
