"""What others wrote appears as text; a closed or full output ends no work."""

import io
import os
import subprocess
import sys

import pytest
from rich.table import Table

from vitlab.cli import main
from vitlab.progress import ProgressBar
from vitlab.terminal import complain, console, printable, safe_output, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("größe 中文 a[red]x", "größe 中文 a[red]x"),
        ("\x1b[2J\x1b]0;t\x07", r"\x1b[2J\x1b]0;t\x07"),
        ("a\nvitlab: b\r\tc", r"a\nvitlab: b\r\tc"),
        (os.fsdecode(b"\xff"), r"\udcff"),
        ("a\u202eb\x9bc\x00\u2028", r"a\u202eb\x9bc\x00\u2028"),
    ],
)
def test_a_name_is_one_line_of_text(text, shown, capsys):
    assert printable(text) == shown
    with safe_output():
        say(text)
        console().print(text.replace("\n", "").replace("\t", ""), soft_wrap=True)
    said, printed = capsys.readouterr().out.splitlines()
    assert (said, printed) == (shown, shown.replace(r"\n", "").replace(r"\t", ""))


def test_no_line_of_a_message_is_forged(capsys):
    with safe_output():
        complain("no folder a\nvitlab: finished\x1b[0m")
    assert capsys.readouterr().err == "vitlab: no folder a\n  vitlab: finished\\x1b[0m\n"


def test_markup_in_a_table_is_text(capsys):
    table = Table("run")
    table.add_row("runs/a[red]x[/blue]:smile:")
    console().print(table)
    assert "runs/a[red]x[/blue]:smile:" in capsys.readouterr().out


def test_a_line_of_progress_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("vitlab.progress.FIRST", -1.0)
    with ProgressBar("features of a[/red]\n\x1b[2J") as bar:
        bar.advance()
    assert capsys.readouterr().err == "features of a[/red]\\n\\x1b[2J: 1\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_a_terminal_lacks_are_escapes(monkeypatch, encoding):
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding))
    with safe_output():
        say("中\udcff")
    shown = "中".encode(encoding, "backslashreplace") + b"\\udcff\n"
    assert file.getvalue() == shown


@pytest.mark.parametrize("device", ["pipe", "/dev/full", "none"])
def test_an_output_that_ends_does_not_end_the_work(device):
    code = """
from vitlab.terminal import console, safe_output
import sys
with safe_output():
    for step in range(3):
        console().print("y" * 100_000)
        print("x" * 100_000)
        print("step", step, file=sys.stderr)
"""
    reader, writer = os.pipe()
    os.close(reader)
    with open(device, "w") if device == "/dev/full" else open(writer, "w") as out:
        close = "exec >&-; " if device == "none" else ""
        words = ["sh", "-c", f'{close}exec "$0" -c "$1"', sys.executable, code]
        done = subprocess.run(words, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    lost = ["vitlab: the rest of the output is lost: No space left on device"]
    assert done.returncode == len(lost * (device == "/dev/full"))
    assert [line for line in done.stderr.splitlines() if line not in lost] == [
        f"step {step}" for step in range(3)
    ]
    assert ("lost" in done.stderr) == (device == "/dev/full")


@pytest.mark.parametrize("columns", ["0", "00", "", "x"])
def test_a_width_of_nothing_shows_everything(monkeypatch, capsys, columns):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):
        main(["evaluate"])
    with safe_output():
        console().print("word")
    assert "word" in capsys.readouterr().out
