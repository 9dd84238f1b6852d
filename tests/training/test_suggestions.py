"""Unknown keys are answered with the nearest one."""

import pytest
from runs import CONFIGS

from vitlab.cli import main
from vitlab.errors import InputError
from vitlab.training.cli import FitCLI

NEAREST = {
    "model.optimizer.rate": "lr",
    "model.optimizer.learning_rate": "lr",
    "model.optimizer.weight_decai": "weight_decay",
    "model.optimizer.lr_schedule.shap": "shape",
    "data.batch_size": "global_batch_size",
    "data.workers": "num_workers",
    "probing.every": "every_n_epochs",
    "trainer.max_epoch": "max_epochs",
}
CLASSES = {
    "model.objective": ("DIMO", "DINO"),
    "model.objective.encoder": ("VIT", "ViT"),
    "data": ("ImagNet", "ImageNet"),
    "data.transform": ("MultiCrops", "MultiCrop"),
}


@pytest.mark.parametrize("key", NEAREST)
def test_the_nearest_key_is_named(key, tmp_path):
    section, _, name = key.rpartition(".")
    content = f"{name}: 1"
    for part in reversed(section.split(".")):
        content = f"{part}: {{{content}}}"
    (tmp_path / "given.yaml").write_text(content)
    for words in ([f"--{key}", "1"], [f"--{key}=1"], ["--config", str(tmp_path / "given.yaml")]):
        with pytest.raises(InputError, match=f"use {section}.{NEAREST[key]}$") as refused:
            FitCLI(["--config", f"{CONFIGS}/dino.yaml", *words])
        assert refused.value.field == key


@pytest.mark.parametrize("key", CLASSES)
def test_the_nearest_class_and_all_of_them_are_named(key):
    wrong, right = CLASSES[key]
    for words in ([f"--{key}", wrong], [f"--{key}.class_path={wrong}"]):
        with pytest.raises(InputError, match=f"did you mean {right}") as refused:
            FitCLI(["--config", f"{CONFIGS}/dino.yaml", *words])
        assert refused.value.field.startswith(key)


def test_an_unknown_section_names_the_nearest_and_all():
    with pytest.raises(InputError, match=r"did you mean model\?.*probing") as refused:
        FitCLI(["--config", "dino", "--modle.optimizer.lr", "1"])
    assert refused.value.field == "modle.optimizer.lr"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--config demo", "no config names the class of model.objective"),
        ("--confg dino", "there is no confg; did you mean config?"),
        ("dino", "give one, such as --config dino;"),
        ("--config dino --probing.dense.ade.root x", "give the class_path of one, such as ADE20K"),
        ("--config demo --config dino", "give --config dino before --config demo"),
        ("--data.root x --config dino", "give --config dino before --data.root"),
        ("--config dino --trainer.strategy ddpp", "trainer.strategy ddpp; did you mean ddp or"),
        ("--config dino --trainer.devices none", "trainer.devices none: "),
        ("--config dino --trainer.max_epochs -3", "trainer.max_epochs -3: "),
        ("--config dino --data.batchsize 8", "use data.global_batch_size"),
        ("--config dino --ckpt-path last", "there is no ckpt-path; use ckpt_path"),
        ("--config dino --run_dir x", "there is no run_dir; use run-dir"),
        ("--config dino --data.num_workers four", "--data.num_workers four: give a whole number\n"),
        ("--config dino --data.transform.num_local 4", "did you mean num_local_crops?"),
        (
            "--config dino --config demo --probing.dense.voc2012.rot x",
            "dense.rot; did you mean root?",
        ),
        (
            "--config dino --model.objective.encoder.normalizer entmax",
            "entmax15 or softmax? allowed:",
        ),
        ("--config dino --model.objective.encoder.locality uniform", "give a mapping of its keys"),
    ],
)
def test_the_command_answers_in_two_lines(words, text, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", *words.split()])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert text in error
    assert error.startswith("vitlab fit: ")
    assert error.count("\n") <= 2
