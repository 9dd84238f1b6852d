"""Checkpoints are written at once or not at all, verified when read, and one of two is good."""

import errno
import itertools
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from runs import UNPROBED, refusal

from vitlab.callbacks.checkpoint import AtomicCheckpointIO, CheckpointCallback
from vitlab.run import run_dir
from vitlab.run.run_dir import check_readable


def content(step: int) -> dict:
    tensor = torch.full((300,), float(step))
    return {"pytorch-lightning_version": "2", "global_step": step, "state_dict": {"w": tensor}}


def save(folder: Path, step: int, name: str = run_dir.LAST) -> Path:
    AtomicCheckpointIO().save_checkpoint(content(step), folder / name)
    return folder / name


def step_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["state_dict"]["w"][0])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save(tmp_path_factory.mktemp("good"), 7).read_bytes()


def flipped(good: bytes, bit: int) -> bytes:
    damaged = bytearray(good)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def is_noticed(path: Path, damaged: bytes) -> bool:
    """Whether damage is noticed; if not, it must be where nothing is read."""
    path.write_bytes(damaged)
    try:
        check_readable(path)
    except ValueError:
        return True
    found = torch.load(path, weights_only=True)
    assert found.pop("state_dict")["w"].equal(content(7)["state_dict"]["w"])
    assert found.items() <= content(7).items()
    return False


@settings(max_examples=60)
@given(data=st.data())
def test_a_flipped_bit_is_noticed_wherever_it_changes_what_is_read(good, tmp_path_factory, data):
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    is_noticed(tmp_path_factory.getbasetemp() / "flipped.ckpt", flipped(good, bit))


def test_damage_to_a_weight_or_the_index_and_lost_parts_are_noticed(good, tmp_path):
    path = tmp_path / "x"
    weight = flipped(good, 8 * good.index(torch.full((300,), 7.0).numpy().tobytes()))
    assert is_noticed(path, weight)
    assert torch.load(path, weights_only=True)  # torch does not notice
    records = [found.start() for found in re.finditer(b"PK\x01\x02", good)]
    assert len(records) > 3
    for start in records:  # of the index: compressed, a folder
        assert is_noticed(path, flipped(good, 8 * (start + 10) + 3))
        assert is_noticed(path, flipped(good, 8 * (start + 38) + 4))
    for place in (int(part * len(good)) for part in (0.0, 0.3, 0.9, 0.98)):
        assert is_noticed(path, good[:place])
        assert is_noticed(path, good[:place] + bytes(len(good) - place))


def test_a_checkpoint_that_holds_a_program_is_refused_by_its_name(tmp_path):
    torch.save({"epoch": Path("x")}, tmp_path / "x.ckpt")
    with refused("--ckpt_path"):
        check_readable(tmp_path / "x.ckpt")


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    save(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"last\.ckpt cannot be written") as full:
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert full.value.errno == errno.EFBIG
    assert names(tmp_path) == {run_dir.LAST}
    assert step_of(tmp_path / run_dir.LAST) == 1


@pytest.mark.parametrize("renames", [0, 1])
def test_a_process_killed_while_it_writes_leaves_a_good_checkpoint(tmp_path, monkeypatch, renames):
    class KilledError(BaseException):
        pass

    save(tmp_path, 1)
    save(tmp_path, 2)
    left = iter([*[None] * renames, KilledError()])
    replace = Path.replace

    def maybe(self, target):
        if (killed := next(left)) is not None:
            raise killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", maybe)
        patch.setattr(Path, "unlink", lambda self, missing_ok: None)  # nor does it clean up
        with pytest.raises(KilledError):
            save(tmp_path, 3)
    start = run_dir.find_resume_point(tmp_path, "last")
    assert (start.step, start.damaged) == (2, ())
    save(tmp_path, 3)
    assert run_dir.find_resume_point(tmp_path, "last").step == 3


def test_of_two_generations_and_those_kept_the_newest_good_one_is_used(tmp_path):
    assert run_dir.find_resume_point(tmp_path, "auto") == run_dir.ResumePoint()
    for step in (1, 2, 3):
        save(tmp_path, step)
    last, previous = tmp_path / run_dir.LAST, tmp_path / run_dir.PREVIOUS
    assert names(tmp_path) == {last.name, previous.name}
    assert (step_of(last), step_of(previous)) == (3, 2)
    assert run_dir.find_resume_point(tmp_path, "auto") == run_dir.ResumePoint(last, 3)
    kept = save(tmp_path, 1, f"{run_dir.KEPT}/epoch_0001.ckpt")
    last.write_bytes(b"PK")
    start = run_dir.find_resume_point(tmp_path, "last")
    assert (start.checkpoint, start.step) == (previous, 2)
    assert "last.ckpt cannot be read safely" in start.damaged[0]
    run_dir.rename_damaged(start, tmp_path)
    save(tmp_path, 4)  # must not push out the only good one
    assert (step_of(last), step_of(previous)) == (4, 2)
    for path in (last, previous):
        path.write_bytes(b"")
    start = run_dir.find_resume_point(tmp_path, "auto")
    assert (start.checkpoint, len(start.damaged)) == (kept, 2)
    kept.write_bytes(b"")
    with refused("--ckpt_path"):
        run_dir.find_resume_point(tmp_path, "auto")
    (tmp_path / run_dir.RESULTS).write_text("[]")
    assert run_dir.find_resume_point(tmp_path, "auto").finished


HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.lockf(file, fcntl.LOCK_EX)
file.write("process 4 on elsewhere"); file.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_two_processes_never_write_into_one_folder_and_a_dead_one_leaves_nothing(tmp_path):
    words = [sys.executable, "-c", HOLDER, str(tmp_path / run_dir.LOCK)]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        for claim in (run_dir.check_unlocked, lambda folder: run_dir.run_lock(folder).__enter__()):
            with refused("--run-dir") as error:
                claim(tmp_path)
            assert "process 4 on elsewhere writes into it" in str(error.value)
        holder.kill()
        holder.wait()
    assert run_dir.find_resume_point(tmp_path, None) == run_dir.ResumePoint()  # a lock is no run
    (tmp_path / ".status.json.4711").write_bytes(b"{")  # what was being written
    (tmp_path / ".notes").write_bytes(b"of the user")
    with run_dir.run_lock(tmp_path):
        assert "process" in (tmp_path / run_dir.LOCK).read_text()
        assert names(tmp_path) == {run_dir.LOCK, ".notes"}


@pytest.mark.parametrize("wrong", [{"minutes": -1}, {"every_n_epochs": -1}, {"keep": 0}])
def test_wrong_numbers_are_refused(wrong):
    with refused(f"checkpoint.{next(iter(wrong))}"):
        CheckpointCallback(**wrong)


def test_checkpoints_of_epochs_are_kept_and_bounded_in_number(fit):
    options = ("--checkpoint.every_n_epochs", "1", "--checkpoint.keep", "2")
    folder = fit(*UNPROBED, *options, "--trainer.max_epochs", "3")
    assert names(folder / run_dir.KEPT) == {"epoch_0002.ckpt", "epoch_0003.ckpt"}
    steps = [check_readable(path) for path in run_dir.resumable_checkpoints(folder)]
    assert steps == [6, 4, 6, 4]


@pytest.mark.parametrize(
    ("name", "time", "code"),
    [
        ("last.ckpt", 2, 1),
        pytest.param("epoch_0002.ckpt", 1, 1, marks=pytest.mark.slow),
        pytest.param("config.yaml", 1, 2, marks=pytest.mark.slow),
        pytest.param("results.json", 1, 1, marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_stops_the_run_with_the_reason_and_it_goes_on_later(
    fit, monkeypatch, capsys, tmp_path, name, time, code
):
    replace, count = Path.replace, itertools.count(1)

    def full(self, target):
        if Path(target).name == name and next(count) == time:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    options, run = (*UNPROBED, "--checkpoint.every_n_epochs", "1"), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        refusal(fit, *options, code=code)
    said = capsys.readouterr().err
    assert f"{name} cannot be written: No space left on device. See" in said
    assert code == 2 or f"continue with --run-dir {run} --ckpt_path last" in said
    assert not (run / name).exists()
    fit(*options, "--ckpt_path", "auto")
    assert {"config.yaml", "results.json", "last.ckpt", "previous.ckpt"} <= names(run)
    assert names(run / run_dir.KEPT) == {"epoch_0001.ckpt", "epoch_0002.ckpt"}
