"""The command `vitlab`: its verbs, help, and the verbs that have no folder of tests."""

import subprocess
import sys
from pathlib import Path

import pytest
from runs import CONFIGS

from vitlab import __version__
from vitlab.cli import main

AMOUNTS = ("imagenet", "voc", "ade", "cityscapes")
AMOUNTS = ", ".join(f"{name}_{split}: 1" for name in AMOUNTS for split in ("train", "val"))


def refused(words, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (["--version"], [f"vitlab {__version__} in "]),
        ([], ["vitlab fit --config", "data synthesize"]),
        (["-h"], ["vitlab fit --config"]),
        (["--help"], ["vitlab fit --config"]),
        (["cost", "--help"], ["vitlab cost --config configs/dino_entmax.yaml", "[224, 384, 512]"]),
        (["fit", "--help"], ["--probing.every_n_epochs", "--data", "--run-dir", "--ckpt_path"]),
    ],
)
def test_version_and_help(words, texts, capsys):
    try:
        main(words)
    except SystemExit as done:
        assert done.code == 0  # noqa: PT017
    shown = capsys.readouterr().out
    assert not [text for text in texts if text not in shown]


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        ("fitt", "fit?"),
        ("train", "fit?"),
        ("trainn", "fit?"),
        ("--verison", "--version?"),
        ("evalute", "evaluate?"),
        ("validate", "evaluate or measure?"),
        ("data", "data check or data voc-masks or data synthesize?"),
        ("data chek", "data check"),
    ],
)
def test_the_nearest_verb_is_named(words, nearest, capsys):
    assert f"did you mean {nearest}" in refused(words.split(), capsys)


def test_an_unknown_option_is_refused_in_two_lines_with_the_nearest(capsys):
    lines = refused(["runs", "--jsn"], capsys).splitlines()
    assert len(lines) == 2
    assert lines[0] == "vitlab runs: there is no option --jsn; did you mean --json?"


def test_a_folder_that_is_gone_is_said(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the current folder no longer exists" in refused(["--version"], capsys)


def test_the_help_of_fit_has_the_trainer_apart(capsys):
    for words, shown in ((["--help"], False), (["--help-trainer"], True)):
        with pytest.raises(SystemExit):
            main(["fit", *words])
        text = capsys.readouterr().out
        assert ("--trainer.max_epochs" in text) is shown
        assert ("--probing.every_n_epochs" in text) is not shown


def test_verbs_but_fit_say_their_options_and_refuse_wrong_ones_without_torch():
    code = "import sys; from vitlab.cli import VERBS, main\n"
    code += (
        "for words in [(*verb.split(), word) for verb in VERBS for word in ('--help', '--nope')]:\n"
    )
    code += "  if words != ('fit', '--help'):\n"
    code += "    try: main(words)\n"
    code += "    except SystemExit: assert 'torch' not in sys.modules, words\n"
    code += "    else: assert 0, words\n"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    done = subprocess.run([sys.executable, "-c", code], **quiet)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate", "--weights, --protocol, --data.root are missing"),
        ("cost --config dino --batch-size abc", "--batch-size abc: give a whole number"),
        ("runs --state lst", "--state lst: did you mean lost?"),
        ("import --source x --out y", "there is no option --source; did you mean --weights?"),
        ("submit --config dino --time 1:00:00 --gpus 2", "did you mean --gpus-per-node?"),
        ("submit --config dino --time 1:00:00 --data.root x", "put it behind --"),
        (
            "fit --config dino --lr 3 --gpus 2",
            "no lr; use model.optimizer.lr; there is no gpus; use",
        ),
        ("plan", "there is no config; give one, such as --config dino_entmax"),
        ("data check x", "x belongs to no option"),
    ],
)
def test_a_command_line_is_refused_under_the_verbs_own_name(words, message, capsys):
    lines = refused(words.split(), capsys).splitlines()
    verb = words.partition(" --")[0].removesuffix(" x")
    assert lines[0].startswith(f"vitlab {verb}: "), lines[0]
    assert message in lines[0], lines[0]
    assert len(lines) <= 2


def test_keys_of_an_earlier_config_are_named_all_at_once(tmp_path: Path, capsys):
    encoder = "{class_path: ViT, init_args: {size: nano, patch: 8}}"
    objective = (
        f"{{class_path: DINO, init_args: {{projection: {{hidden: 2}}, encoder: {encoder}}}}}"
    )
    (tmp_path / "old.yaml").write_text(
        f"model: {{optimizer: {{rate: 1}}, objective: {objective}}}\n"
        "data: {class_path: ImageNet, init_args: {root: x, workers: 1}}\n"
    )
    message = refused(["fit", "--config", tmp_path / "old.yaml"], capsys)
    for use in ("optimizer.lr", "objective.head", "encoder.patch_size", "data.num_workers"):
        assert f"{use};" in message or message.rstrip().endswith(use), message


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("- a", "holds a list"), ("model:\n\tx: 1", "line 2, column 1")],
)
def test_files_that_are_no_config_are_refused(text, message, tmp_path: Path, capsys):
    (tmp_path / "wrong.yaml").write_text(text)
    shown = refused(["fit", "--config", tmp_path / "wrong.yaml"], capsys)
    assert message in shown
    assert len(shown.splitlines()) == 1


def test_data_are_drawn_once_and_a_foreign_folder_is_kept(tmp_path: Path, capsys):
    words = ["data", "synthesize", "--amounts", f"{{{AMOUNTS}}}", "--processes", "1"]
    main([*words, "--root", str(tmp_path / "drawn")])
    assert (tmp_path / "drawn/imagenet/train").is_dir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("precious")
    assert str(tmp_path / "mine") in refused([*words, "--root", tmp_path / "mine"], capsys)
    assert (tmp_path / "mine/thesis.tex").read_text() == "precious"


def test_cost_measures_the_encoders_of_configs(tmp_path: Path, capsys):
    """Named by their files, or by their paths where files have one name."""
    paths = []
    for name in ("softmax", "entmax15", "seed0/config", "seed1/config"):
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].parent.mkdir(exist_ok=True)
        normalizer = "softmax" if "config" in name else name
        arguments = f"{{size: nano, patch_size: 8, img_size: 32, normalizer: {normalizer}}}"
        encoder = f"{{class_path: ViT, init_args: {arguments}}}"
        paths[-1].write_text(f"model: {{objective: {{init_args: {{encoder: {encoder}}}}}}}")
    out = tmp_path / "cost.csv"
    for chosen, names in ((paths[:2], ["softmax", "entmax15"]), (paths[2:], map(str, paths[2:]))):
        words = ["cost", "--config", *map(str, chosen), "--sizes", "32", "--batch-size", "1"]
        main([*words, "--device", "cpu", "--out", str(out)])
        assert [line.split(",")[0] for line in out.read_text().splitlines()[1:]] == list(names)
    assert "softmax" in capsys.readouterr().out


def test_cost_refuses_what_it_cannot_read(tmp_path: Path, capsys):
    broken = tmp_path / "broken.yaml"
    for text, words, said in (
        ("", ["nope.yaml"], "nope.yaml"),
        ("", [CONFIGS / "demo.yaml"], "give a config such as dino"),
        ("model: {objective: [", [broken], "broken.yaml"),
        ((CONFIGS / "dino.yaml").read_text().replace("size: S", "size: XXL"), [broken], "XXL"),
        ("", [CONFIGS / "dino.yaml", "--sizes", "230"], "--sizes 224 or 240"),
    ):
        broken.write_text(text)
        assert said in refused(["cost", "--config", *words], capsys)


@pytest.mark.parametrize("verb", ["fit", "runs"])
def test_ctrl_c_before_anything_has_begun_ends_in_a_sentence(verb, monkeypatch, capsys):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"vitlab.commands.{verb}.run", interrupted)
    assert "interrupted; the same command begins again" in refused([verb], capsys)
