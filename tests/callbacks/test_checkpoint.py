"""Checkpoints are written at once or not at all, verified when read, and one of two is good."""

import errno
import itertools
import resource
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import UNPROBED

from vitlab.callbacks.checkpoint import AtomicCheckpointIO, CheckpointCallback
from vitlab.run import run_dir


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


def refused_or_the_same(path: Path, damaged: bytes) -> bool:
    """Whether the damage is noticed; if not, it must be where nothing is read."""
    path.write_bytes(damaged)
    try:
        run_dir.check_readable(path)
    except ValueError:
        return True
    found = torch.load(path, weights_only=True)
    assert found.pop("state_dict")["w"].equal(content(7)["state_dict"]["w"])
    assert found.items() <= content(7).items()
    return False


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_noticed_wherever_it_changes_what_is_read(good, tmp_path_factory, data):
    place = data.draw(st.integers(0, 8 * len(good) - 1))
    damaged = bytearray(good)
    damaged[place // 8] ^= 1 << place % 8
    refused_or_the_same(tmp_path_factory.getbasetemp() / "flipped.ckpt", bytes(damaged))


def test_a_flipped_bit_in_a_weight_is_noticed(good, tmp_path):
    place = good.index(torch.full((300,), 7.0).numpy().tobytes())
    damaged = bytearray(good)
    damaged[place] ^= 1
    assert torch.load(_written(tmp_path / "x", damaged), weights_only=True)  # torch does not
    assert refused_or_the_same(tmp_path / "x", bytes(damaged))


@pytest.mark.parametrize(("offset", "bit"), [(10, 3), (38, 4)])  # compressed, a folder
def test_a_flipped_bit_in_the_index_is_noticed(good, tmp_path, offset, bit):
    with zipfile.ZipFile(_written(tmp_path / "x", good)) as archive:
        start, count = archive.start_dir, len(archive.infolist())
    for _ in range(count):
        damaged = bytearray(good)
        damaged[start + offset] ^= 1 << bit
        assert refused_or_the_same(tmp_path / "x", bytes(damaged))
        start = good.find(b"PK\x01\x02", start + 1)


def _written(path: Path, damaged: bytes) -> Path:
    path.write_bytes(damaged)
    return path


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.98])
def test_a_file_that_is_cut_short_or_zeroed_is_noticed(good, tmp_path, part):
    place = int(part * len(good))
    assert refused_or_the_same(tmp_path / "cut", good[:place])
    assert refused_or_the_same(tmp_path / "zeroed", good[:place] + bytes(len(good) - place))


def test_what_was_last_becomes_previous(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert names(tmp_path) == {run_dir.LAST, run_dir.PREVIOUS}
    assert [step_of(path) for path in run_dir.resumable_checkpoints(tmp_path)] == [3, 2]
    assert run_dir.find_resume_point(tmp_path, "last") == run_dir.ResumePoint(
        tmp_path / run_dir.LAST, 3
    )


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


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    save(tmp_path, 1, f"{run_dir.KEPT}/epoch_0001.ckpt")
    (tmp_path / run_dir.LAST).write_bytes(b"PK")
    start = run_dir.find_resume_point(tmp_path, "last")
    assert (start.checkpoint, start.step) == (tmp_path / run_dir.PREVIOUS, 1)
    assert "last.ckpt cannot be read safely" in start.damaged[0]
    run_dir.rename_damaged(start, tmp_path)
    save(tmp_path, 3)  # must not push out the only good one
    assert [step_of(path) for path in run_dir.resumable_checkpoints(tmp_path)[:2]] == [3, 1]
    for path in run_dir.resumable_checkpoints(tmp_path)[:2]:
        path.write_bytes(b"")
    kept = run_dir.find_resume_point(tmp_path, "auto")
    assert kept.checkpoint == tmp_path / run_dir.KEPT / "epoch_0001.ckpt"
    assert len(kept.damaged) == 2
    kept.checkpoint.write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint of the run can be read"):
        run_dir.find_resume_point(tmp_path, "auto")


def test_auto_begins_anew_goes_on_or_finds_the_run_finished(tmp_path):
    assert run_dir.find_resume_point(tmp_path, "auto") == run_dir.ResumePoint()
    save(tmp_path, 5)
    assert run_dir.find_resume_point(tmp_path, "auto").step == 5
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


def test_two_processes_never_write_into_one_folder_and_a_dead_one_holds_nothing(tmp_path):
    words = [sys.executable, "-c", HOLDER, str(tmp_path / run_dir.LOCK)]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        for claim in (run_dir.check_unlocked, lambda folder: run_dir.run_lock(folder).__enter__()):
            with pytest.raises(ValueError, match="in use: process 4 on elsewhere writes into it"):
                claim(tmp_path)
        holder.kill()
        holder.wait()
    with run_dir.run_lock(tmp_path):
        assert "process" in (tmp_path / run_dir.LOCK).read_text()
    assert (
        run_dir.find_resume_point(tmp_path, None) == run_dir.ResumePoint()
    )  # a lock alone is no other's folder


@pytest.mark.parametrize("wrong", [{"minutes": -1}, {"every_n_epochs": -1}, {"keep": 0}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match=f"checkpoint.{next(iter(wrong))} .* is too small"):
        CheckpointCallback(**wrong)


def test_what_a_killed_process_was_writing_goes_when_the_run_goes_on(tmp_path):
    (tmp_path / ".status.json.4711").write_bytes(b"{")
    (tmp_path / ".notes").write_bytes(b"of the user")
    with run_dir.run_lock(tmp_path):
        assert names(tmp_path) == {run_dir.LOCK, ".notes"}


def test_checkpoints_of_epochs_are_kept_and_bounded_in_number(fit):
    options = (
        "--checkpoint.every_n_epochs",
        "1",
        "--checkpoint.keep",
        "2",
        "--trainer.max_epochs",
        "3",
    )
    folder = fit(*UNPROBED, *options)
    assert names(folder / run_dir.KEPT) == {"epoch_0002.ckpt", "epoch_0003.ckpt"}
    assert {run_dir.LAST, run_dir.PREVIOUS} <= names(folder)
    steps = [run_dir.check_readable(path) for path in run_dir.resumable_checkpoints(folder)]
    assert steps == [6, 4, 6, 4]


@pytest.mark.slow
@pytest.mark.parametrize("failing", [2, 3])  # those of the first epoch are 0 and 1
def test_a_kept_checkpoint_that_could_not_be_written_is_once_the_run_goes_on(
    fit, monkeypatch, failing
):
    whole, count = AtomicCheckpointIO.save_checkpoint, itertools.count()

    def full(self, checkpoint, path, storage_options=None):
        if next(count) == failing:
            raise OSError(errno.ENOSPC, f"{path} cannot be written: No space left on device")
        whole(self, checkpoint, path, storage_options)

    options = (*UNPROBED, "--checkpoint.every_n_epochs", "1")
    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", full)
        with pytest.raises(SystemExit):
            fit(*options)
    folder = fit(*options, "--ckpt_path", "last")
    assert names(folder / run_dir.KEPT) == {"epoch_0001.ckpt", "epoch_0002.ckpt"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("config.yaml", 2), (run_dir.RESULTS, 1)])
def test_a_full_disk_before_and_after_training_is_said_too(
    fit, monkeypatch, capsys, tmp_path, name, code
):
    def full(self, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    replace = Path.replace
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(SystemExit) as stopped:
            fit(*UNPROBED)
    assert stopped.value.code == code
    place = tmp_path / "run" / name
    assert f"{place} cannot be written: No space left on device. See" in capsys.readouterr().err
    assert not place.exists()
    fit(*UNPROBED, "--ckpt_path", "auto")
    assert place.exists()


def test_a_full_disk_stops_the_run_with_the_reason(fit, monkeypatch, capsys, tmp_path):
    whole, written = AtomicCheckpointIO.save_checkpoint, []

    def failing(self, checkpoint, path, storage_options=None):
        if written:
            raise OSError(errno.ENOSPC, f"{path} cannot be written: No space left on device")
        written.append(path)
        whole(self, checkpoint, path, storage_options)

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", failing)
        with pytest.raises(SystemExit) as stopped:
            fit(*UNPROBED)
    assert stopped.value.code == 1
    said = capsys.readouterr().err
    assert "last.ckpt cannot be written: No space left on device" in said
    assert f"continue with --run-dir {tmp_path / 'run'} --ckpt_path last" in said
    assert run_dir.find_resume_point(tmp_path / "run", "last").step == 2


def test_a_checkpoint_that_holds_a_program_is_refused_by_its_name(tmp_path):
    torch.save({"epoch": Path("x")}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="reading it would run pathlib") as refused:
        run_dir.check_readable(tmp_path / "x.ckpt")
    assert "weights_only" not in str(refused.value)
