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
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from vitlab.data.synthetic import Amounts, synthesize
from vitlab.run import run_dir

ROOT = Path(__file__).parents[1]
AMOUNTS = Amounts(*(4, 2, 6, 4, 3, 2, 3, 2))
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGKILL)
PATIENCE = 90  # seconds within which a stopped run must have ended


@dataclass(frozen=True)
class Setting:
    """What is tried.

    Attributes:
        seed: of moments, signals and damages.
        stops: how often the run is stopped.
        epochs: of five steps each.
    """

    seed: int = 0
    stops: int = 30
    epochs: int = 40


def command(folder: Path, data: Path, setting: Setting) -> list[str]:
    """Return the words that start the run, the first time and every other."""
    return [
        *(sys.executable, "-m", "vitlab", "fit", "--config", str(ROOT / "configs/dino.yaml")),
        *("--config", str(ROOT / "configs/demo.yaml"), "--synthetic.root", ""),
        *("--data.root", str(data / "imagenet"), "--data.num_workers", "1"),
        *("--data.global_batch_size", "8"),
        *("--probing.dense.voc2012.root", str(data / "VOCdevkit"), "--probing.num_workers", "0"),
        *("--probing.every_n_epochs", str(max(setting.epochs // 4, 1)), "--probing.pictures", "0"),
        *("--trainer.max_epochs", str(setting.epochs), "--model.optimizer.warmup_epochs", "1"),
        *("--trainer.devices", "2", "--trainer.strategy", "ddp"),
        *("--trainer.precision", "32-true", "--trainer.enable_progress_bar", "false"),
        *("--checkpoint.minutes", "0.005", "--checkpoint.every_n_epochs", "10"),
        *("--run-dir", str(folder), "--ckpt_path", "auto"),
    ]


def draw(folder: Path) -> Path:
    """Draw the images, and damage some of those that are trained on."""
    synthesize(folder, seed=0, amounts=AMOUNTS, processes=1)
    for index, path in enumerate(sorted((folder / "imagenet/train").rglob("*.JPEG"))[::13]):
        path.write_bytes(path.read_bytes()[:200] if index % 2 else b"")
    return folder


class Attempt:
    """One start of the run, to be stopped or awaited."""

    def __init__(self, words: list[str], log: Path):
        self.log = log.open("ab")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            words, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
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
        second = self.second_rank()
        if target == "second" and second is not None:
            family = [second]
        else:
            family = self.family() if target == "all" else self.family()[:1]
        for process in family:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def ended(self, everyone: list[psutil.Process], seconds: float = PATIENCE) -> int:
        """Wait for the end of all of its processes; return the exit code.

        Raises:
            AssertionError: some did not end in time; they are killed.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.over() and not any(alive(process) for process in everyone):
                self.log.close()
                return self.process.returncode
            time.sleep(0.1)
        left = [process.pid for process in everyone if alive(process)]
        for process in everyone:
            if alive(process):
                process.kill()
        raise AssertionError(f"{len(left)} processes had not ended after {seconds:.0f} s: {left}")


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def await_moment(attempt: Attempt, folder: Path, chance: random.Random, startup: float) -> str:
    """Wait for a random moment in the life of an attempt; return what it is doing then."""
    kind = chance.choice(["starts", "trains", "trains", "trains", "writes"])
    last, part = folder / run_dir.LAST, folder / f".{run_dir.LAST}.part"
    if kind == "starts":
        time.sleep(chance.uniform(0, startup))
        return kind
    before = last.stat().st_mtime_ns if last.exists() else 0
    until = time.monotonic() + 6 * startup
    while not attempt.over() and time.monotonic() < until:
        if last.exists() and last.stat().st_mtime_ns != before:
            break
        time.sleep(0.05)
    if kind == "trains":
        time.sleep(chance.uniform(0, 2))
        return kind
    until = time.monotonic() + 20
    while not attempt.over() and not part.exists() and time.monotonic() < until:
        pass  # it is there for a few milliseconds
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


def chaos(folder: Path, setting: Setting) -> None:
    """Do all of it below a folder.

    Raises:
        AssertionError: the two runs differ, or one did not end when it had to.
    """
    chance = random.Random(setting.seed)
    data, calm, wild = draw(folder / "drawn"), folder / "calm", folder / "chaos"
    began = time.monotonic()
    attempt = Attempt(command(calm, data, setting), folder / "calm.log")
    while not (calm / run_dir.LAST).exists() and not attempt.over():
        time.sleep(0.05)
    startup = time.monotonic() - began
    assert attempt.ended([], 3600) == 0, (folder / "calm.log").read_text()[-3000:]
    print(f"the calm run took {time.monotonic() - began:.0f} s, {startup:.0f} s of it to start")
    words = command(wild, data, setting)
    for count in range(1, setting.stops + 1):
        attempt = Attempt(words, folder / "chaos.log")
        doing = await_moment(attempt, wild, chance, startup)
        number = chance.choice(SIGNALS)
        target = chance.choice(["all", "first", "second"])
        everyone = attempt.family()
        attempt.send(number, target)
        code = attempt.ended(everyone)
        text = f"{count:3d} of {setting.stops}: {number.name} to {target} while it {doing}"
        text += f"; exit code {code}"
        newest, older = wild / run_dir.LAST, wild / run_dir.PREVIOUS
        if newest.exists() and older.exists() and readable(older) and chance.random() < 0.3:
            text += f"; {newest.name} {damage(newest, chance)}"
        print(text, flush=True)
    attempt = Attempt(words, folder / "chaos.log")
    assert attempt.ended([], 3600) == 0, (folder / "chaos.log").read_text()[-3000:]
    compare(calm, wild)
    print(f"after {setting.stops} stops: the weights, optimizer and measurements of the calm run")


def compare(calm: Path, wild: Path) -> None:
    """Refuse any difference between two finished runs."""
    ours, theirs = (torch.load(path / run_dir.LAST, weights_only=True) for path in (calm, wild))
    for part in ("state_dict", "optimizer_states"):
        different = [name for name, same in leaves(ours[part], theirs[part], part) if not same]
        assert not different, f"these differ: {different[:5]}"
    assert ours["global_step"] == theirs["global_step"]
    rows = [json.loads((path / "measurements.json").read_text()) for path in (calm, wild)]
    assert rows[0] == rows[1], "the measurements differ"


def leaves(ours: object, theirs: object, name: str) -> list[tuple[str, bool]]:
    """Return, of each value within both, its name and whether it is the same."""
    if isinstance(ours, dict) and isinstance(theirs, dict) and ours.keys() == theirs.keys():
        return [x for key in ours for x in leaves(ours[key], theirs[key], f"{name}.{key}")]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [x for index, pair in pairs for x in leaves(*pair, f"{name}[{index}]")]
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return [(name, torch.equal(ours, theirs))]
    return [(name, ours == theirs)]


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Setting()
    parser.add_argument("--seed", type=int, default=default.seed, help="of moments and signals")
    parser.add_argument("--stops", type=int, default=default.stops, help="how often it is stopped")
    parser.add_argument("--epochs", type=int, default=default.epochs, help="of five steps each")
    parser.add_argument("--folder", type=Path, help="new folder for both runs and their logs")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"runs and logs are in {folder}")
    chaos(folder, Setting(given.seed, given.stops, given.epochs))


if __name__ == "__main__":
    main()
