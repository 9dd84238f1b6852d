from pathlib import Path

import pytest

from vitlab import __version__
from vitlab.cli import main


def test_version_and_help_come_without_heavy_imports(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith(f"vitlab {__version__} in ")
    for words in ([], ["--help"], ["-h"]):
        main(words)
        assert "vitlab fit --config" in capsys.readouterr().out


def test_help_of_fit_describes_options(capsys):
    with pytest.raises(SystemExit) as done:
        main(["fit", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for option in ("--probing.every_n_epochs", "--data", "--run-dir", "--ckpt_path", "--dry-run"):
        assert option in text
    assert "Segmentation sets by name" in text or "segmentation sets by name" in text


@pytest.mark.parametrize("words", [["fitt"], ["data"], ["data", "chek"]])
def test_unknown_verbs_are_named(words, capsys):
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2
    assert "data synthesize" in capsys.readouterr().err


def test_data_are_drawn_once_and_a_foreign_folder_is_kept(tmp_path: Path, capsys):
    amounts = "{imagenet_train: 1, imagenet_val: 1, voc_train: 1, voc_val: 1, ade_train: 1, "
    amounts += "ade_val: 1, cityscapes_train: 1, cityscapes_val: 1}"
    words = ["data", "synthesize", "--amounts", amounts, "--processes", "1"]
    main([*words, "--root", str(tmp_path / "drawn")])
    assert (tmp_path / "drawn/imagenet/train").is_dir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("precious")
    with pytest.raises(SystemExit) as refused:
        main([*words, "--root", str(tmp_path / "mine")])
    assert refused.value.code == 2
    assert str(tmp_path / "mine") in capsys.readouterr().err
    assert (tmp_path / "mine/thesis.tex").read_text() == "precious"


def refused(words, capsys) -> str:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_cost_measures_the_encoders_of_configs(tmp_path: Path, capsys):
    paths = []
    for normalizer in ("softmax", "entmax15"):
        paths.append(tmp_path / f"{normalizer}.yaml")
        paths[-1].write_text(
            "model: {objective: {class_path: DINO, init_args: {encoder: {class_path: ViT, "
            f"init_args: {{size: nano, patch_size: 8, img_size: 32, "
            f"normalizer: {normalizer}}}}}}}}}}}"
        )
    words = ["cost", "--config", *map(str, paths), "--sizes", "32", "--batch", "1"]
    main([*words, "--device", "cpu", "--out", str(tmp_path / "cost.csv")])
    assert "softmax" in capsys.readouterr().out
    assert "\nentmax15,32," in (tmp_path / "cost.csv").read_text()


def test_configs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, capsys):
    text = "{encoder: {class_path: ViT, init_args: {size: nano, patch_size: 8, img_size: 32}}}"
    for seed in ("seed0", "seed1"):
        (tmp_path / seed).mkdir()
        (tmp_path / seed / "config.yaml").write_text(f"model: {{objective: {{init_args: {text}}}}}")
    paths = [str(tmp_path / seed / "config.yaml") for seed in ("seed0", "seed1")]
    out = tmp_path / "cost.csv"
    main(["cost", "--config", *paths, "--sizes", "32", "--batch", "1", "--out", str(out)])
    assert [line.split(",")[0] for line in out.read_text().splitlines()[1:]] == paths


def test_cost_explains_itself(capsys):
    with pytest.raises(SystemExit) as done:
        main(["cost", "--help"])
    assert done.value.code == 0
    assert "vitlab cost --config configs/dino_entmax.yaml" in capsys.readouterr().out


def test_cost_refuses_what_it_cannot_read(tmp_path: Path, capsys):
    configs = Path(__file__).parents[1] / "configs"
    assert "nope.yaml" in refused(["cost", "--config", "nope.yaml"], capsys)
    overlay = ["cost", "--config", str(configs / "demo.yaml")]
    assert "give a config such as configs/dino.yaml" in refused(overlay, capsys)
    broken = tmp_path / "broken.yaml"
    broken.write_text("model: {objective: [")
    assert "broken.yaml" in refused(["cost", "--config", str(broken)], capsys)
    broken.write_text((configs / "dino.yaml").read_text().replace("size: S", "size: XXL"))
    assert "XXL" in refused(["cost", "--config", str(broken)], capsys)
    sizes = ["cost", "--config", str(configs / "dino.yaml"), "--sizes", "230"]
    assert "--sizes 224 or 240" in refused(sizes, capsys)


@pytest.mark.parametrize("verb", ["fit", "runs"])
def test_ctrl_c_before_anything_has_begun_ends_in_a_sentence(verb, monkeypatch, capsys):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"vitlab.commands.{verb}.run", interrupted)
    assert "interrupted; the same command begins again" in refused([verb], capsys)
