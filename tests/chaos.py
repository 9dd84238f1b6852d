"""Stop a run of two ranks again and again, damage its checkpoints, and compare it to a calm one.

    python tests/chaos.py --seed 0 --stops 30

Both runs train with DINO on the same drawn images, of which some are damaged from the start. The
calm one is left alone. The other is stopped at random moments (while it starts, while it trains,
while it writes a checkpoint) by SIGTERM, SIGUSR1, SIGINT or SIGKILL to one rank or to all of its
processes; now and then its newest checkpoint is then cut short, zeroed in parts, or has a bit
flipped. Each time the same command starts it again. In the end both must have the same weights,
optimizer and measurements, to the bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from runs import differences, read, words

from vitlab.data.synthetic import Amounts, synthesize
from vitlab.run import run_dir

AMOUNTS = Amounts(*(4, 2, 6, 4, 3, 2, 3, 2))
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGKILL)
PATIENCE = 90  # seconds within which a stopped run must have ended
EPOCHS = 40  # of five steps each


def draw(folder: Path) -> Path:
    """Draw the images, and damage some of those that are trained on."""
    synthesize(folder, seed=0, amounts=AMOUNTS, processes=1)
    for index, path in enumerate(sorted((folder / "imagenet/train").rglob("*.JPEG"))[::13]):
        path.write_bytes(path.read_bytes()[:200] if index % 2 else b"")
    return folder


class Attempt:
    """One start of the run on two ranks, to be stopped or awaited."""

    def __init__(self, folder: Path, data: Path, log: Path, epochs: int = EPOCHS):
        options = (
            *("--data.num_workers", "1", "--data.global_batch_size", "8", "--ckpt_path", "auto"),
            *("--probing.every_n_epochs", str(max(epochs // 4, 1)), "--probing.pictures", "0"),
            *("--trainer.max_epochs", str(epochs), "--trainer.devices", "2"),
            *("--trainer.strategy", "ddp", "--checkpoint.minutes", "0.005"),
            *("--checkpoint.every_n_epochs", "10"),
        )
        self.log = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vitlab", *words(folder, data, ["dino", "demo"], *options)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def family(self) -> list[psutil.Process]:
        """Return the process, and all that it has started."""
        try:
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def second_rank(self) -> psutil.Process | None:
        """Return the other rank, once it is there."""
        for process in self.family()[1:]:
            try:
                if process.ppid() == self.process.pid and process.environ().get("LOCAL_RANK"):
                    return process
            except psutil.Error:
                continue
        return None

    def over(self) -> bool:
        return self.process.poll() is not None

    def send(self, number: int, target: str) -> None:
        """Send a signal to the "first" rank, the "second", or to "all" processes at once."""
        family, second = self.family(), self.second_rank()
        chosen = family if target == "all" else family[:1]
        for process in [second] if target == "second" and second else chosen:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def ended(self, everyone: list[psutil.Process], seconds: float = PATIENCE) -> int:
        """Wait for the end of all of its processes; return the exit code.

        Raises:
            AssertionError: some did not end in time; they are killed.
        """
        if wait(lambda: self.over() and not any(map(alive, everyone)), seconds):
            self.log.close()
            return self.process.returncode
        left = [process for process in everyone if alive(process)]
        for process in left:
            process.kill()
        raise AssertionError(f"these had not ended after {seconds:.0f} s: {left}")


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait(condition: Callable[[], bool], seconds: float, interval: float = 0.05) -> bool:
    """Wait until something is so, at most so long; return whether it is."""
    until = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(interval)
    return found


def await_moment(attempt: Attempt, folder: Path, chance: random.Random, startup: float) -> str:
    """Wait for a random moment in the life of an attempt; return what it is doing then."""
    kind = chance.choice(["starts", "trains", "trains", "trains", "writes"])
    last, part = folder / run_dir.LAST, folder / f".{run_dir.LAST}.part"
    if kind == "starts":
        time.sleep(chance.uniform(0, startup))
        return kind
    before = last.stat().st_mtime_ns if last.exists() else 0
    wait(
        lambda: attempt.over() or (last.exists() and last.stat().st_mtime_ns != before), 6 * startup
    )
    if kind == "trains":
        time.sleep(chance.uniform(0, 2))
    else:  # the file is there for a few milliseconds
        wait(lambda: attempt.over() or part.exists(), 20, interval=0)
    return kind


def damage(path: Path, chance: random.Random) -> str:
    """Damage a file as disks and crashes do; return how."""
    content = bytearray(path.read_bytes())
    how = chance.choice(["is cut short", "has a bit flipped", "has zeros in it"])
    place = chance.randrange(len(content) // 2)
    if how == "is cut short":
        del content[place:]
    elif how == "has a bit flipped":
        content[place + len(content) // 4] ^= 1 << chance.randrange(8)
    else:
        content[place : place + 4096] = bytes(4096)
    path.write_bytes(content)
    return how


def readable(path: Path) -> bool:
    try:
        run_dir.check_readable(path)
    except ValueError:
        return False
    return True


def chaos(folder: Path, seed: int = 0, stops: int = 30, epochs: int = EPOCHS) -> None:
    """Do all of it below a folder.

    Args:
        folder: for both runs and their logs.
        seed: of moments, signals and damages.
        stops: how often the run is stopped.
        epochs: of five steps each.

    Raises:
        AssertionError: the two runs differ, or one did not end when it had to.
    """
    chance = random.Random(seed)
    data, calm, wild = draw(folder / "drawn"), folder / "calm", folder / "chaos"
    began = time.monotonic()
    attempt = Attempt(calm, data, folder / "calm.log", epochs)
    wait(lambda: (calm / run_dir.LAST).exists() or attempt.over(), 3600)
    startup = time.monotonic() - began
    assert attempt.ended([], 3600) == 0, (folder / "calm.log").read_text()[-3000:]
    print(f"the calm run took {time.monotonic() - began:.0f} s, {startup:.0f} s of it to start")
    for count in range(1, stops + 1):
        attempt = Attempt(wild, data, folder / "chaos.log", epochs)
        doing = await_moment(attempt, wild, chance, startup)
        number, target = chance.choice(SIGNALS), chance.choice(["all", "first", "second"])
        everyone = attempt.family()
        attempt.send(number, target)
        text = f"{count:3d} of {stops}: {number.name} to {target} while it {doing}"
        text += f"; exit code {attempt.ended(everyone)}"
        newest, older = wild / run_dir.LAST, wild / run_dir.PREVIOUS
        if newest.exists() and older.exists() and readable(older) and chance.random() < 0.3:
            text += f"; {newest.name} {damage(newest, chance)}"
        print(text, flush=True)
    attempt = Attempt(wild, data, folder / "chaos.log", epochs)
    assert attempt.ended([], 3600) == 0, (folder / "chaos.log").read_text()[-3000:]
    compare(calm, wild)
    print(f"after {stops} stops: the weights, optimizer and measurements of the calm run")


def compare(calm: Path, wild: Path) -> None:
    """Refuse any difference between two finished runs."""
    ours, theirs = (torch.load(path / run_dir.LAST, weights_only=True) for path in (calm, wild))
    for part in ("state_dict", "optimizer_states", "global_step"):
        different = differences(ours[part], theirs[part], part)
        assert not different, f"these differ: {different[:5]}"
    assert read(calm / "measurements.json") == read(wild / "measurements.json")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of moments and signals")
    parser.add_argument("--stops", type=int, default=30, help="how often it is stopped")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of five steps each")
    parser.add_argument("--folder", type=Path, help="new folder for both runs and their logs")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"runs and logs are in {folder}")
    chaos(folder, given.seed, given.stops, given.epochs)


if __name__ == "__main__":
    main()
