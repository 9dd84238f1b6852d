"""Exported encoders are read back."""

import json
from collections.abc import Iterator

import pytest
import torch
from refusals import refused
from safetensors import safe_open
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import vitlab
from vitlab.cli import main
from vitlab.encoders import (
    CLSSpecialization,
    Encoder,
    Locality,
    Normalizer,
    Pixels,
    Pool,
    PromptedViT,
    Prompts,
    Tokens,
    TokenSequence,
    load_pretrained,
    save,
)

SPLIT = CLSSpecialization(norm=1, qkv=0.334, mlp=0.67, registers="cls")


def test_bits_and_dtypes_are_kept(build, tmp_path):
    vit = build().to(torch.bfloat16)
    vit.norm.float()
    save(vit, tmp_path / "folder")
    ours, theirs = vitlab.load(tmp_path / "folder").state_dict(), vit.state_dict()
    assert all(ours[name].dtype == value.dtype for name, value in theirs.items())
    assert all(ours[name].equal(value) for name, value in theirs.items())


def test_prompts_and_their_backbone_are_one_folder(build, tmp_path, same):
    encoder = PromptedViT(build(), Prompts(1, Pool(4, 2, 2), Pool(5), mask_mode="pre_softmax"))
    save(encoder.eval(), tmp_path / "folder")
    again = vitlab.load(tmp_path / "folder")
    assert isinstance(again, PromptedViT)
    assert again.config == encoder.config
    same(again, encoder)


class Own(Encoder):
    """A class of the user's own, with an encoder and options inside."""

    def __init__(self, base: Encoder, normalizer: Normalizer, factor: float = 2.0):
        super().__init__()
        self.base, self.factor = base, torch.nn.Parameter(torch.tensor(factor))
        self.embed_dim, self.patch_size = base.embed_dim, base.patch_size

    def forward(self, images: Tensor) -> Tokens:
        return next(self.walk(images)).tokens()

    def walk(self, images: Tensor) -> Iterator[TokenSequence]:
        for state in self.base.walk(images):
            yield TokenSequence(state.x * self.factor, state.grid)


def test_an_encoder_of_ones_own_is_saved_and_loaded(tmp_path, monkeypatch, same):
    own = Own(Pixels(8), Normalizer(1.25, blocks=(0,)), 3.0)
    monkeypatch.setattr("vitlab.encoders.Own", Own, raising=False)
    monkeypatch.setattr(Own, "__module__", "vitlab.encoders")
    save(own, tmp_path / "folder")
    again = vitlab.load(tmp_path / "folder")
    assert (type(again), again.spec()) == (Own, own.spec())
    same(again, own)
    assert load_pretrained(tmp_path / "folder").encoder.factor == 3
    with refused("--format"):
        save(own, tmp_path / "own.safetensors", "timm")
    with refused("model.objective.encoder"):
        save(Own(Pixels(8), torch.relu), tmp_path / "other")
    config = json.loads((tmp_path / "folder/config.json").read_text())
    (tmp_path / "folder/config.json").write_text(
        json.dumps({**config, "class_path": "subprocess.Popen"})
    )
    with pytest.raises(ValueError, match=r"subprocess.Popen.*Nothing of it was run"):
        vitlab.load(tmp_path / "folder")


@pytest.mark.parametrize(("registers", "layer_scale"), [(0, 0.0), (0, 1e-2), (3, 1e-2)])
def test_timm_reads_what_is_exported_for_it(build, tmp_path, registers, layer_scale, same_tokens):
    vit = build(num_registers=registers, layer_scale=layer_scale, pos_interpolation="antialias")
    path = tmp_path / "model.safetensors"
    save(vit, path, "timm")
    with safe_open(path, "pt") as file:
        settings = json.loads(file.metadata()["timm"])
    theirs = VisionTransformer(**settings).eval()
    theirs.load_state_dict(load_file(path))
    for size in ((32, 32), (40, 56)):
        images = torch.randn(2, 3, *size)
        for ours in (vit, load_pretrained(path, "timm").encoder):
            same_tokens(ours(images), theirs.forward_features(images), 1e-5)


@pytest.mark.parametrize("rule", ["size", "dino"])
def test_timm_takes_only_the_size_that_it_encodes_as_we_do(build, tmp_path, rule, same_tokens):
    vit = build(pos_interpolation=rule)
    save(vit, tmp_path / "folder")
    for size in (32, 48):
        path, images = tmp_path / f"{size}.safetensors", torch.randn(2, 3, size, size)
        words = ["export", "--weights", str(tmp_path / "folder"), "--out", str(path)]
        main([*words, "--format", "timm", "--img-size", str(size)])
        with safe_open(path, "pt") as file:
            stated = file.metadata()
        assert stated["pos_interpolation"] == rule
        assert f"exact at {size} px" in stated["positions"]
        theirs = VisionTransformer(**json.loads(stated["timm"])).eval()
        theirs.load_state_dict(load_file(path))
        same_tokens(vit(images), theirs.forward_features(images), 1e-5)
        with pytest.raises(AssertionError, match="doesn't match model"):
            theirs(torch.randn(2, 3, 40, 40))
    again = load_pretrained(tmp_path / "32.safetensors", "timm").encoder
    assert again.config["pos_interpolation"] == rule
    images = torch.randn(2, 3, 40, 56)
    assert again(images).patches.equal(vit(images).patches)


def test_timm_does_not_get_what_it_would_compute_otherwise(build, tmp_path):
    options = [{"cls_specialization": SPLIT}, {"normalizer": "entmax15"}]
    options += [{"cls_specialization": CLSSpecialization(final_norm=True)}]
    options += [{"locality": Locality(k)} for k in ("gaussian", "constant", "fixed", "uniform")]
    options += [{"locality": Locality(refine=True)}, {"normalizer": Normalizer(1, sharpness=2)}]
    encoders = [build(**each) for each in options]
    for encoder in (*encoders, PromptedViT(build(), Prompts(shared=2))):
        with refused("--format"):
            save(encoder, tmp_path / "model.safetensors", "timm")
    assert not list(tmp_path.iterdir())
    save(build(normalizer=Normalizer(1)), tmp_path / "softmax.safetensors", "timm")


def test_nothing_is_overwritten_and_no_half_of_an_export_stays(build, tmp_path, monkeypatch):
    vit = build()
    save(vit, tmp_path / "folder")
    with refused("--out"):
        save(vit, tmp_path / "folder")
    with refused("--out"):
        save(vit, tmp_path / "model.bin", "timm")

    def fail(*given):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    for path, format in ((tmp_path / "b", "vitlab"), (tmp_path / "c.safetensors", "timm")):
        with pytest.raises(OSError, match="disk full"):
            save(vit, path, format)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_damaged_folder_is_refused(build, tmp_path):
    folder = tmp_path / "folder"
    save(build(), folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    content = json.loads(config.read_text())

    def with_arguments(**changes):
        return json.dumps({**content, "init_args": {**content["init_args"], **changes}})

    def refuse(field, wording=False):
        with refused(field, wording=wording):
            vitlab.load(folder)

    for field, text in (
        ("folder", with_arguments(swiglu=True)),
        ("folder", with_arguments(cls_specialization={"norm": 0, "rope": 1})),
        ("folder", with_arguments(num_registers=2)),
        ("folder", with_arguments(img_size=64)),
        ("folder", with_arguments(patch_size=16)),
        ("config.json", json.dumps({**content, "format": "vitlab encoder 9"})),
        ("folder", json.dumps({**content, "class_path": "vitlab.encoders.Tokens"})),
        ("config.json", "{"),
    ):
        config.write_text(text)
        refuse(field)
    config.write_text(json.dumps(content))
    weights.write_bytes(weights.read_bytes()[:-100])
    refuse("model.safetensors")
    weights.unlink()
    refuse("model.safetensors", wording=True)
    config.unlink()
    refuse("path", wording=True)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["dino_entmax", "dino_locat", "dino_cls_specialized"])
def test_a_run_is_exported_as_it_was_trained(fit, tmp_path, same, config):
    from vitlab.run.module import Pretraining

    run = fit("--trainer.max_epochs", "1", "--model.optimizer.warmup_epochs", "0", config=config)
    checkpoint = run / "last.ckpt"
    objective = Pretraining.load_from_checkpoint(checkpoint, map_location="cpu").objective.eval()
    for which, expected in (("teacher", objective.encoder), ("student", objective.student.encoder)):
        words = ["--weights", str(checkpoint), "--out", str(tmp_path / which), "--which", which]
        main(["export", *words])
        same(vitlab.load(tmp_path / which), expected)
    with refused("--which", wording=False):  # the fast suite has the message
        load_pretrained(checkpoint)


def test_import_and_export_are_verbs(dino, write, tmp_path, same, capsys):
    path = write(dino)
    words = ["--out", str(tmp_path / "in"), "--family", "dino", "--img-size", "48"]
    main(["import", "--weights", str(path), *words])
    assert "1 resized (pos_embed)" in capsys.readouterr().out
    same(vitlab.load(tmp_path / "in"), load_pretrained(path, "dino", img_size=48).encoder)
    # a folder is itself something to read, and remembers the family
    again = load_pretrained(tmp_path / "in")
    assert (again.family, again.branch, again.origin) == ("vitlab", "", "dino")
    with refused("--which"):
        load_pretrained(tmp_path / "in", which="teacher")
    out = tmp_path / "out.safetensors"
    main(["export", "--weights", str(tmp_path / "in"), "--out", str(out), "--format", "timm"])
    for name, value in load_file(out).items():
        assert value.equal(again.encoder.state_dict()[name])
