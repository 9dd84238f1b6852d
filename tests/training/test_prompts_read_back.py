"""A run of prompts is a file of weights: read back beside its backbone, evaluated, exported."""

import shutil

import pytest
import torch
from runs import run_fit

import vitlab
from vitlab.cli import main
from vitlab.commands.evaluate import parse
from vitlab.encoders import Pool, PromptedViT, Prompts, ViT, load_pretrained, save
from vitlab.evaluation.evaluate import evaluate
from vitlab.evaluation.fingerprint import fingerprint
from vitlab.evaluation.protocol import EvaluationContext
from vitlab.evaluation.result import Result
from vitlab.objectives import Pretrained
from vitlab.probes import InferenceConfig
from vitlab.run.module import Pretraining

IMAGES = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, drawn):
    """The folder of a run of TCPA, in which the backbone lies too."""
    folder = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(5)
    save(ViT("nano", 8, 64, pos_interpolation="antialias"), folder / "backbone", origin="timm")
    start = "--model.objective.encoder.backbone"
    given = (f"{start}.path", str(folder / "backbone"), f"{start}.family", "auto")
    short = ("--trainer.max_epochs", "1", "--model.optimizer.warmup_epochs", "0")
    configs = ["prompts_tcpa", "demo_prompts"]
    run_fit(folder / "run", drawn, configs, *given, f"{start}.which", "", *short)
    return folder


@pytest.fixture
def moved(trained, tmp_path):
    """A copy of the run whose backbone is no longer where the run had it, and is then put back."""
    shutil.move(trained / "backbone", tmp_path / "elsewhere")
    yield trained / "run/last.ckpt", tmp_path / "elsewhere"
    shutil.rmtree(trained / "backbone", ignore_errors=True)
    shutil.move(tmp_path / "elsewhere", trained / "backbone")


@torch.no_grad()
def same(ours, theirs):
    return ours(IMAGES).cls.equal(theirs(IMAGES).cls) and ours(IMAGES).map.equal(theirs(IMAGES).map)


def in_memory(trained):
    """The encoder as training left it."""
    path = trained / "run/last.ckpt"
    return Pretraining.load_from_checkpoint(path, weights_only=True).objective.encoder.eval()


def test_weights_of_a_run_are_its_prompts_beside_its_backbone(trained, tmp_path):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    imported = load_pretrained(trained / "run/last.ckpt")
    assert torch.random.get_rng_state().equal(before)
    assert isinstance(imported.encoder, PromptedViT)
    assert not imported.encoder.training
    assert imported.report.full
    # whatever its backbone's were, the pixels that prompts were trained with are ImageNet's
    assert (imported.family, imported.origin) == ("vitlab", "vitlab")
    backbone = load_pretrained(trained / "backbone").encoder
    assert same(imported.encoder, in_memory(trained))
    assert not same(imported.encoder, backbone)
    content = torch.load(trained / "run/last.ckpt", weights_only=True)
    state = content["state_dict"]
    content["state_dict"] = {key: state[key] for key in state if ".prompts." not in key}
    content["hyper_parameters"]["objective"]["init_args"]["encoder"]["init_args"]["prompts"] = None
    torch.save(content, tmp_path / "linear.ckpt")
    assert same(load_pretrained(tmp_path / "linear.ckpt").encoder, backbone)


@pytest.mark.filterwarnings("ignore:there are 48 training images")
@pytest.mark.parametrize(
    ("protocol", "data"), [("knn", "imagenet"), ("vitlab-fast", "VOCdevkit")], ids=str
)
def test_an_evaluation_of_a_run_is_one_of_its_encoder(trained, drawn, tmp_path, protocol, data):
    words = ["--weights", str(trained / "run/last.ckpt"), "--protocol", protocol]
    words += ["--data.root", str(drawn / data), "--num-workers", "0", "--accelerator", "cpu"]
    words += ["--protocol.size", "64"] if protocol == "vitlab-fast" else []
    main(["evaluate", *words, "--out", str(tmp_path / "result")])
    result = Result.read(tmp_path / "result")
    asked, _ = parse(words)
    inference = InferenceConfig(torch.device("cpu"), 64, 0)
    work = EvaluationContext(inference, tmp_path / "work", None, 2**30, 0)
    assert result.scores == evaluate(in_memory(trained), asked.protocol, asked.data, work).scores
    assert result.weights.encoder["prompts"]["patches"] == {"size": 18, "length": 1, "top_k": 10}
    assert result.weights.hash == fingerprint(load_pretrained(trained / "run/last.ckpt").encoder)


def test_the_hash_of_an_evaluation_covers_prompts_and_backbone():
    def made(change=None):
        torch.manual_seed(0)
        encoder = PromptedViT(ViT("nano", 8, 32), Prompts(cls=Pool(3), patches=Pool(2, top_k=1)))
        if change is not None:
            with torch.no_grad():
                encoder.get_parameter(f"backbone.{change}")[0].add_(1e-3)
        return fingerprint(encoder.eval())

    prompts = (f"blocks.1.prompts.{each}" for each in ("cls.prompts", "patches.keys"))
    assert len({made(change) for change in (None, None, "norm.bias", *prompts)}) == 4


def test_a_backbone_that_was_moved_is_asked_for(moved, trained, capsys, tmp_path, drawn):
    run, elsewhere = moved
    with pytest.raises(ValueError, match=r"there is no .*backbone.*--backbone FILE"):
        load_pretrained(run)
    assert isinstance(load_pretrained(run, backbone=elsewhere).encoder, PromptedViT)
    words = ["evaluate", "--weights", str(run), "--protocol", "knn", "--dry-run"]
    words += ["--data.root", str(drawn / "imagenet"), "--out", str(tmp_path / "result")]
    with pytest.raises(SystemExit):
        main(words)
    assert "--backbone" in capsys.readouterr().err
    main([*words, "--backbone", str(elsewhere)])
    assert "last.ckpt" in capsys.readouterr().out
    torch.manual_seed(6)
    save(ViT("nano", 8, 64, pos_interpolation="antialias"), trained / "backbone")
    with pytest.raises(ValueError, match=r"last.ckpt, with .*backbone: the prompts were learned"):
        load_pretrained(run)


def test_an_export_has_the_backbone_in_it_and_is_read_back_exactly(moved, tmp_path):
    run, elsewhere = moved
    encoder = load_pretrained(run, backbone=elsewhere).encoder
    save(encoder, tmp_path / "folder")
    again = load_pretrained(tmp_path / "folder")
    assert same(vitlab.load(tmp_path / "folder"), encoder)
    assert same(again.encoder, encoder)
    assert (again.encoder.config, again.origin) == (encoder.config, "vitlab")
    assert fingerprint(again.encoder) == fingerprint(encoder)
    with pytest.raises(ValueError, match=r"timm's VisionTransformer has no prompts"):
        save(encoder, tmp_path / "a.safetensors", "timm")


def test_what_prompts_cannot_do_is_refused(trained, tmp_path):
    run, nameless = trained / "run/last.ckpt", tmp_path / "last.ckpt"
    content = torch.load(run, weights_only=True)
    encoder = content["hyper_parameters"]["objective"]["init_args"]["encoder"]
    del encoder["init_args"]["backbone"]["init_args"]["path"]
    torch.save(content, nameless)
    for message, read, more in (
        ("give the backbone's own file", Pretrained, {"path": str(run)}),
        ("leave img_size and into out", load_pretrained, {"path": run, "img_size": 32}),
        ("leave img_size and into out", load_pretrained, {"path": run, "into": ViT("nano", 8, 64)}),
        ("is no run of prompts", load_pretrained, {"path": trained / "backbone", "backbone": run}),
        ("train with backbone Pretrained", load_pretrained, {"path": nameless}),
    ):
        with pytest.raises(ValueError, match=message):
            read(**more)
