"""Out and in again."""

import json
from itertools import product

import pytest
import torch
from jsonargparse import auto_cli
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

import vitlab
from vitlab.encoders import (
    CLSSpecialization,
    Locality,
    export,
    import_weights,
    load_pretrained,
    save,
)

SPLIT = CLSSpecialization(norm=1, qkv=0.334, mlp=0.67, registers="cls")


@pytest.mark.parametrize(
    ("normalizer", "cls_specialization", "kind", "registers", "layer_scale"),
    list(
        product(
            ["softmax", "entmax15"],
            [CLSSpecialization(), SPLIT],
            ["none", "gaussian"],
            [0, 2],
            [0.0, 1.0],
        )
    ),
    ids=str,
)
def test_every_combination_is_read_back_exactly(
    build, same, tmp_path, normalizer, cls_specialization, kind, registers, layer_scale
):
    vit = build(
        normalizer=normalizer,
        cls_specialization=cls_specialization,
        locality=Locality(kind, True, "linear" if kind == "none" else "quadratic"),
        num_registers=registers,
        layer_scale=layer_scale,
        pos_interpolation="dino",
    )
    save(vit, tmp_path / "folder")
    again = vitlab.load(tmp_path / "folder")
    assert again.config == vit.config
    assert not again.training
    assert list(again.state_dict()) == list(vit.state_dict())
    for name, value in vit.state_dict().items():
        assert again.state_dict()[name].equal(value)
    same(again, vit)


def test_the_dtype_is_kept(build, tmp_path):
    vit = build().to(torch.bfloat16)
    vit.norm.float()
    save(vit, tmp_path / "folder")
    again = vitlab.load(tmp_path / "folder")
    assert [p.dtype for p in again.parameters()] == [p.dtype for p in vit.parameters()]


@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("layer_scale", [0.0, 1e-2])
def test_timm_reads_what_is_exported_for_it(build, tmp_path, registers, layer_scale):
    vit = build(num_registers=registers, layer_scale=layer_scale, pos_interpolation="antialias")
    path = tmp_path / "model.safetensors"
    save(vit, path, "timm")
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["timm"])
    theirs = VisionTransformer(**settings).eval()
    theirs.load_state_dict(load_file(path))
    for size in ((32, 32), (40, 56)):
        images = torch.randn(2, 3, *size)
        tokens, expected = vit(images), theirs.forward_features(images)
        torch.testing.assert_close(tokens.cls, expected[:, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(tokens.patches, expected[:, 1 + registers :], rtol=0, atol=1e-5)
        again = load_pretrained(path, "timm").encoder(images)
        torch.testing.assert_close(again.cls, tokens.cls, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cls_specialization": SPLIT}, r"cls_specialization: .*_cls"),
        ({"cls_specialization": CLSSpecialization(final_norm=True)}, r"norm_cls\.weight"),
        ({"locality": Locality("gaussian")}, r"locality\.kind: .*gaug"),
        ({"locality": Locality(refine=True)}, r"locality\.refine"),
        ({"normalizer": "entmax15"}, "entmax15 attention"),
    ],
    ids=str,
)
def test_timm_does_not_get_what_it_would_compute_otherwise(build, tmp_path, options, reason):
    with pytest.raises(ValueError, match=rf"(?s){reason}.*format=vitlab"):
        save(build(**options), tmp_path / "model.safetensors", "timm")
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_and_no_half_of_an_export_stays(build, tmp_path, monkeypatch):
    vit = build()
    save(vit, tmp_path / "folder")
    with pytest.raises(ValueError, match="folder exists, and is not overwritten"):
        save(vit, tmp_path / "folder")
    with pytest.raises(ValueError, match=r"give a name in \.safetensors"):
        save(vit, tmp_path / "model.bin", "timm")

    def fail(*given):
        raise OSError("disk full")

    monkeypatch.setattr("vitlab.encoders.checkpoint_io.files._flush", fail)
    for path, format in ((tmp_path / "b", "vitlab"), (tmp_path / "c.safetensors", "timm")):
        with pytest.raises(OSError, match="disk full"):
            save(vit, path, format)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_damaged_folder_is_refused(build, tmp_path):
    folder = tmp_path / "folder"
    save(build(), folder)
    config = json.loads((folder / "config.json").read_text())

    def refuse(match):
        with pytest.raises(ValueError, match=match):
            vitlab.load(folder)

    def write(**changes):
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    write(ViT={**config["ViT"], "swiglu": True})
    refuse("cannot make.*swiglu.*the version that wrote it")
    write(ViT={**config["ViT"], "cls_specialization": {"norm": 0, "rope": 1}})
    refuse("does not fit this version.*rope")
    write(ViT={**config["ViT"], "num_registers": 2})
    refuse("not those of its config.*missing .reg_token")
    write(ViT={**config["ViT"], "img_size": 64})
    refuse("not those of its config.*resized")
    write(ViT={**config["ViT"], "patch_size": 16})
    refuse("of another size than the encoder")
    write(format="vitlab encoder 9")
    refuse("format 'vitlab encoder 9'")
    (folder / "config.json").write_text("{")
    refuse("cannot be read")
    write()
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    refuse("copy it again")
    (folder / "model.safetensors").unlink()
    refuse("no model.safetensors")
    (folder / "config.json").unlink()
    refuse("not a folder with config.json that vitlab exported")


@pytest.mark.slow
@pytest.mark.parametrize("config", ["dino_entmax", "dino_locat", "dino_cls_specialized"])
def test_a_run_is_exported_as_it_was_trained(fit, tmp_path, same, config):
    from vitlab.training.module import Pretraining

    run = fit("--trainer.max_epochs", "1", "--model.optimizer.warmup_epochs", "0", config=config)
    checkpoint = run / "last.ckpt"
    objective = Pretraining.load_from_checkpoint(checkpoint, map_location="cpu").objective.eval()
    for which, expected in (("teacher", objective.encoder), ("student", objective.student.encoder)):
        assert export(checkpoint, tmp_path / which, which=which).full
        same(vitlab.load(tmp_path / which), expected)
    with pytest.raises(ValueError, match="several models: student, teacher; choose one"):
        export(checkpoint, tmp_path / "neither")


def test_weights_of_others_become_a_folder(dino, write, tmp_path, same):
    path = write(dino)
    report = import_weights(path, tmp_path / "folder", "dino", img_size=48)
    assert report.resized == ("pos_embed",)
    same(vitlab.load(tmp_path / "folder"), load_pretrained(path, "dino", img_size=48).encoder)
    # and a folder is itself something to read
    again = load_pretrained(tmp_path / "folder")
    assert (again.family, again.branch) == ("vitlab", "")
    with pytest.raises(ValueError, match="leave it out"):
        load_pretrained(tmp_path / "folder", which="teacher")


def test_both_directions_can_be_verbs_of_a_command(dino, write, tmp_path):
    words = ["--weights", str(write(dino)), "--out", str(tmp_path / "in"), "--family", "dino"]
    assert auto_cli(import_weights, args=words, as_positional=False).full
    out = tmp_path / "out.safetensors"
    words = ["--weights", str(tmp_path / "in"), "--out", str(out), "--format", "timm"]
    assert auto_cli(export, args=words, as_positional=False).full
    for name, value in load_file(out).items():
        assert value.equal(dino[name])
