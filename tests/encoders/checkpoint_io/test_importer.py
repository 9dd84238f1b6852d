"""Load reports, and refused files."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from refusals import refused
from safetensors.torch import save_file

from vitlab.encoders import CLSSpecialization, Locality, ViT, load, load_pretrained, save


class Code:
    """A pickle that would run something."""

    def __reduce__(self):
        return (Path.touch, (Path("run-by-a-pickle"),))


def refuse(field, *given, wording=True, **options):
    with refused(field, wording=wording):
        load_pretrained(*given, **options)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, monkeypatch, dino):
    monkeypatch.chdir(tmp_path)
    for zipped in (True, False):
        torch.save({**dino, "x": Code()}, "bad.pth", _use_new_zipfile_serialization=zipped)
        refuse("bad.pth", "bad.pth")
    Path("bare.pth").write_bytes(pickle.dumps(Code()))
    refuse("bare.pth", "bare.pth", wording=False)
    assert not Path("run-by-a-pickle").exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_a_truncated_file_is_refused(write, dino, name):
    path = write(dino, name)
    content = path.read_bytes()
    for share in (0.0, 0.01, 0.5, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        refuse(name, path, "dino", wording=False)


def test_files_of_another_kind_are_refused(tmp_path, write, dino):
    (tmp_path / "readme.md").write_text("# Weights\n" * 40)
    refuse("readme.md", tmp_path / "readme.md", wording=False)
    refuse("path", tmp_path / "nothing.pth")
    refuse("path", tmp_path)
    resnet = {"conv1.weight": torch.zeros(4, 3, 7, 7), "layer1.0.conv1.weight": torch.zeros(4)}
    lightning = {"pytorch-lightning_version": "2.6", "state_dict": dino}
    for content in ({"epoch": 3}, [torch.zeros(2)], resnet, lightning):
        refuse("weights.pth", write(content))


def test_a_header_that_begins_like_a_pickle_is_still_safetensors(tmp_path, dino):
    for length in range(64):
        path = tmp_path / f"{length}.safetensors"
        save_file(dino, path, {"comment": "x" * 8 * length})
        if path.read_bytes()[:1] == b"\x80":
            assert load_pretrained(path, "dino").report.full
            return
    pytest.fail("no header of such a length")


def test_family_and_model_must_fit_and_be_named_where_several_do(write, dino):
    path = write(dino)
    assert load_pretrained(path, "dino").encoder.config["pos_interpolation"] == "dino"
    assert load_pretrained(path, "timm").encoder.config["pos_interpolation"] == "antialias"
    for family in ("auto", "vitlab"):
        refuse("--family", path, family)
    refuse("--which", path, which="teacher")
    refuse("--family", write({"model": dino}), "vitlab")
    refuse("--family", write({**dino, "mask_token": torch.zeros(1, 32)}), "dino")
    state = {f"module.backbone.{key}": value for key, value in dino.items()}
    path = write({"student": state, "teacher": state})
    for which in ("", "ema"):
        refuse("--which", path, which=which)
    assert load_pretrained(path, which="student").branch == "student"


def test_architectures_and_sizes_that_no_encoder_has_are_refused(write, dino):
    one_block = {key: value for key, value in dino.items() if "blocks.2" not in key}
    swiglu = {**dino, "mask_token": torch.zeros(1, 32), "blocks.0.mlp.w12.weight": torch.ones(2)}
    for family, content in (
        ("dino", one_block),
        ("dino", {**dino, "pos_embed": dino["pos_embed"][:, :-1]}),
        ("auto", swiglu),
        ("timm", {**dino, "blocks.0.attn.q_norm.weight": torch.ones(16)}),
    ):
        refuse("weights.pth", write(content), family)


def test_every_tensor_must_match_unless_partial_is_allowed(write, dino, build):
    path, into = write(dino), build(locality=Locality("gaussian"), num_registers=2)
    kept = into.reg_token.clone()
    refuse("path", path, "dino", into=into)
    report = load_pretrained(path, "dino", into=into, partial=True).report
    assert len(report.missing_keys) == 1 + 3 * 4  # tensors that options add
    assert into.reg_token.equal(kept)
    del dino["blocks.1.attn.qkv.bias"]
    path = write({**dino, "blocks.1.attn.extra": torch.ones(2)})
    refuse("path", path, "dino")
    loaded = load_pretrained(path, "dino", partial=True)
    assert loaded.report.missing_keys == ("blocks.1.attn.qkv.bias",)
    assert loaded.report.unexpected_keys == ("blocks.1.attn.extra",)
    assert len(loaded.report.matched) == len(loaded.encoder.state_dict()) - 1
    # the initial value of such a bias is 0, which is what a layer without one computes
    assert not loaded.encoder.get_parameter("blocks.1.attn.qkv.bias").any()


def test_a_split_encoder_is_filled_from_plain_weights(write, dino, build, same_tokens):
    path = write(dino)
    split = {"norm": 1, "qkv": 0.334, "final_norm": True}
    into = build(cls_specialization=CLSSpecialization(**split), pos_interpolation="dino")
    stream = torch.get_rng_state()
    loaded, plain = load_pretrained(path, "dino", into=into), load_pretrained(path, "dino")
    assert torch.get_rng_state().equal(stream)
    assert loaded.encoder is into
    assert loaded.report.full
    assert {"blocks.0.attn.qkv_cls.weight", "norm_cls.bias"} <= set(loaded.report.copied)
    images = torch.randn(2, 3, 32, 32)
    same_tokens(into(images), plain.encoder(images), 1e-5)
    random = build(cls_specialization=CLSSpecialization(qkv=0.334, init="random"))
    refuse("cls_specialization.init", path, "dino", into=random)


def test_positions_follow_the_grid_of_a_given_encoder(write, dino):
    into, path = ViT("nano", 8, 48), write(dino)
    report = load_pretrained(path, "dino", into=into).report
    assert report.resized == ("pos_embed",)
    expected = load_pretrained(path, "dino", img_size=48).encoder
    assert into.pos_embed.equal(expected.pos_embed)
    refuse("weights.pth", path, "dino", into=ViT("nano", 16, 32))
    refuse("img_size", path, "dino", img_size=48, into=ViT("nano", 8, 32))
    refuse("encoder.img_size", path, "dino", img_size=33)


def test_half_precision_becomes_fp32(write, dino):
    content = {"teacher": {f"backbone.{k}": v.half() for k, v in dino.items()}}
    loaded = load_pretrained(write(content))
    assert {p.dtype for p in loaded.encoder.parameters()} == {torch.float32}
    assert loaded.encoder.cls_token.equal(dino["cls_token"].half().float())


@pytest.mark.parametrize("wrapper", ["", "model", "state_dict"])
def test_a_wrapper_says_nothing_about_the_family(write, dino, wrapper):
    path = write({wrapper: dino} if wrapper else dino)
    for family, rule in (("dino", "dino"), ("timm", "antialias"), ("mae", "size")):
        assert load_pretrained(path, family).encoder.config["pos_interpolation"] == rule
    with refused("--family", wording=False) as info:
        load_pretrained(path)
    assert "dino or mae or timm" in str(info.value)


@pytest.mark.parametrize(
    ("outer", "prefixes", "which"),
    [
        ("model", ("teacher.backbone.", "student.backbone."), "teacher"),
        ("model", ("module.teacher.backbone._orig_mod.", "student.backbone."), "student"),
        ("state_dict", ("module.base_encoder.", "module.momentum_encoder."), "base_encoder"),
        ("target_encoder", ("module.",), ""),
        ("", ("backbone._orig_mod.",), ""),
        ("", ("_fsdp_wrapped_module.backbone._checkpoint_wrapped_module.",), ""),
        ("state_dict", ("model.backbone.",), ""),
    ],
)
def test_a_model_is_found_behind_any_prefix(write, dino, outer, prefixes, which):
    names = {f"{p}{key}": value + n for n, p in enumerate(prefixes) for key, value in dino.items()}
    if "backbone" in prefixes[0]:
        names[prefixes[0].replace("backbone", "dino_head") + "mlp.weight"] = torch.ones(2)
    path = write({outer: names} if outer else names)
    loaded = load_pretrained(path, "dino", which)
    number = next((n for n, p in enumerate(prefixes) if which and which in p), 0)
    assert loaded.encoder.state_dict()["cls_token"].equal(dino["cls_token"] + number)
    if len(prefixes) > 1:
        with refused("--which", wording=False):
            load_pretrained(path, "dino")


def test_mae_is_found_by_its_decoder(write, dino):
    mask = {"mask_token": torch.zeros(1, 1, 16), "decoder_embed.weight": torch.ones(16, 32)}
    loaded = load_pretrained(write({"model": {**dino, **mask}}))
    assert (loaded.family, loaded.encoder.config["pos_interpolation"]) == ("mae", "size")


def test_nothing_random_is_imported(write, dino):
    del dino["cls_token"]
    dino["pos_embed"] = dino["pos_embed"][:, 1:]
    with refused("path", wording=False) as info:
        load_pretrained(write(dino), "timm", partial=True)
    assert "lacks cls_token, which would be random" in str(info.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("img_size", each) for each in (8_000_000, 0, -64, 2**62, 64.0, "64", True, None, [64])),
        *(("patch_size", each) for each in (0, 7, -8, 10**9, "8", 8.0, None)),
        *(("num_registers", each) for each in (-1, 10**9, 1.5, "2", None)),
        *(("size", each) for each in ("huge", 3, None, ["nano"])),
        *(("layer_scale", each) for each in (-1.0, 1e9, "a")),
        *(("drop_path", each) for each in (-0.1, 2.0, "a")),
        *(("depth", each) for each in (10**9, 4)),
    ],
)
def test_a_hostile_config_of_a_folder_is_refused_before_it_is_built(tmp_path, name, value):
    save(ViT("nano", patch_size=16, img_size=64), tmp_path / "nano")
    file = tmp_path / "nano/config.json"
    config = json.loads(file.read_text())
    config["init_args"][name] = value
    file.write_text(json.dumps(config))
    for read in (load, load_pretrained):
        with refused(wording=False) as info:
            read(tmp_path / "nano")
        assert "nano" in str(info.value)
        assert name in str(info.value)


@pytest.mark.parametrize("changed", [{"img_size": 128}, {"patch_size": 8}])
def test_a_config_that_its_tensors_contradict_is_refused(tmp_path, changed):
    save(ViT("nano", patch_size=16, img_size=64), tmp_path / "nano")
    file = tmp_path / "nano/config.json"
    config = json.loads(file.read_text())
    config["init_args"] |= changed
    file.write_text(json.dumps(config))
    with refused(wording=False):
        load_pretrained(tmp_path / "nano")


def test_a_class_that_is_no_encoder_is_not_built(tmp_path):
    save(ViT("nano", patch_size=16, img_size=64), tmp_path / "nano")
    arguments = {"in_features": 10**9, "out_features": 10**9}
    config = {"class_path": "torch.nn.Linear", "init_args": arguments, "origin": "vitlab"}
    (tmp_path / "nano/config.json").write_text(json.dumps({**config, "format": "vitlab encoder 2"}))
    with refused("nano", wording=False) as info:
        load(tmp_path / "nano")
    assert "torch.nn.Linear is no Encoder" in str(info.value)
