from pathlib import Path

import pytest

from vitlab import __version__
from vitlab.cli import main


def test_version_and_help_come_without_heavy_imports(capsys):
    main(["--version"])
    assert capsys.readouterr().out.strip() == f"vitlab {__version__}"
    for words in ([], ["--help"], ["-h"]):
        main(words)
        assert "vitlab fit --config" in capsys.readouterr().out


def test_help_of_fit_describes_options(capsys):
    with pytest.raises(SystemExit) as done:
        main(["fit", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for option in ("--probing.every", "--data", "--run", "--ckpt_path", "--dry_run"):
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
