"""Progress in plain lines, as in logs, and on a terminal."""

import io
import time

import pytest
from rich.console import Console

from vitlab import progress
from vitlab.progress import ProgressBar, duration, track


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when the test says so."""
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def test_a_log_gets_a_line_after_5_s_and_then_every_30_s(clock, capsys):
    for _ in track(range(100), "features"):
        clock[0] += 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "features: 5 of 100, 0:01:35 left",
        "features: 35 of 100, 0:01:05 left",
        "features: 65 of 100, 0:00:35 left",
        "features: 95 of 100, 0:00:05 left",
    ]


def test_short_work_prints_nothing_and_unknown_length_is_counted(clock, capsys):
    assert list(track(iter("abc"), "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    with ProgressBar("bytes") as bar:
        clock[0] += 6
        bar.advance(1500)
    assert capsys.readouterr().err == "bytes: 1,500\n"


def test_work_within_work_is_told_with_it_and_a_fit_without_steps_by_itself(
    clock, capsys, monkeypatch
):
    monkeypatch.setattr(progress, "TICK", 0.01)
    with ProgressBar("untrained encoder"):
        for _ in track(range(6), "patches"):
            clock[0] += 1
        with ProgressBar("linear probe"):
            clock[0] += 32
            time.sleep(0.2)  # nothing advances
    assert capsys.readouterr().err.splitlines() == [
        "untrained encoder: patches: 5 of 6, 0:00:01 left",
        "untrained encoder: linear probe, 0:00:32",
    ]


def test_a_terminal_shows_a_bar_and_is_left_clean(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    monkeypatch.setattr(progress, "console", lambda stderr: console)
    assert list(track(range(3), "[red] files")) == [0, 1, 2]
    assert "[red] files" in screen.getvalue()  # markup of others is text


def test_other_ranks_show_nothing(clock, capsys, monkeypatch):
    monkeypatch.setattr("vitlab.distributed.rank", lambda: 1)
    for _ in track(range(100), "features"):
        clock[0] += 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [
        (0.4, "0:00:00"), (59.6, "0:01:00"), (86_399, "23:59:59"), (2e5, "2 d 7:33:20"),
    ],
)  # fmt: skip
def test_durations_are_read_as_a_clock(seconds, text):
    assert duration(seconds) == text
