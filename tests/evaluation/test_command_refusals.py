"""What `vitlab evaluate` refuses before any long work."""

import pytest

from vitlab.cli import main


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--data.root", "/nope"], "there is no folder /nope"),
        (["--out", "/proc/nothing"], "--out /proc/nothing"),
        (["--out", "weights/config.json/result"], "choose another folder"),
        (["--batch-size", "0"], "--batch-size 0 is too small"),
        (["--num-workers", "-1"], "--num-workers -1 is too small"),
        (["--seed", "-1"], "--seed -1 is too small"),
        (["--devices", "-1"], "--devices -1 is too small"),
        (["--memory", "0"], "--memory 0.0 is too small"),
        (["--accelerator", "nonsense"], "cannot be used on this machine"),
    ],
)
def test_bad_options_are_refused(evaluate, capsys, options, reason):
    with pytest.raises(SystemExit) as stopped:
        evaluate("knn", *options)
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err


def test_help_of_a_protocol_shows_its_settings(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", "--protocol", "dinov2-linear", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "iterations: 40000" in shown
    assert "learning rate" in shown


def test_an_interruption_is_told_in_a_sentence(evaluate, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("vitlab.evaluation.run.evaluate", interrupted)
    with pytest.raises(SystemExit) as stopped:
        evaluate("knn")
    assert stopped.value.code == 2
    assert "goes on where it can" in capsys.readouterr().err
