"""A SLURM of two nodes on one machine, in a folder: daemons of our own, no service, root or not."""

import os
import platform
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "sinfo")
WAIT = 60.0  # seconds for daemons to answer; machines may be busy


def missing() -> list[str]:
    """Return the programs that are not installed; Debian keeps the daemons in sbin."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


NODES = ("n1", "n2")


class Cluster:
    """Two nodes with two processors each.

    Args:
        folder: short, since sockets have long names; readable by all, as munge wants it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.daemons: list[subprocess.Popen] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "SLURM_CONF": str(folder / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
        }

    def start(self) -> None:
        folder, user = self.folder, pwd.getpwuid(os.getuid()).pw_name
        for name in ("state", "spool", "log"):
            (folder / name).mkdir()
        (folder / "key").write_bytes(secrets.token_bytes(1024))
        (folder / "key").chmod(0o400)
        names = {"socket": "sock", "pid-file": "munged.pid", "log-file": "log/munged"}
        names |= {"key-file": "key", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        self._daemon("munged", "--foreground", "--num-threads=1", *options)
        self._until(lambda: (folder / "sock").exists(), "munged")
        (folder / "slurm.conf").write_text(self._settings(user))
        self._daemon("slurmctld", "-D")
        for node in NODES:
            (folder / f"spool/{node}").mkdir()
            self._daemon("slurmd", "-D", "-N", node)
        idle = ["idle"] * len(NODES)
        words = ("sinfo", "-h", "-N", "-o", "%T")
        self._until(lambda: self.ask(*words, check=False).split() == idle, "slurm")

    def _settings(self, user: str) -> str:
        folder, host = self.folder, platform.node().split(".")[0]
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={_free()}",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            "AuthType=auth/munge",
            "CredType=cred/munge",
            # so many seconds a job that is started again waits; 120 by default
            f"AuthInfo=socket={folder}/sock,cred_expire=5",
            f"StateSaveLocation={folder}/state",
            f"SlurmdSpoolDir={folder}/spool/%n",
            f"SlurmctldPidFile={folder}/slurmctld.pid",
            f"SlurmdPidFile={folder}/slurmd.%n.pid",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "MpiDefault=none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU",
            "SchedulerType=sched/builtin",
            "SchedulerParameters=sched_interval=1,batch_sched_delay=0",
            "ReturnToService=1",  # one that was called down stays so until `back`
            "KillWait=5",
            # MASTER_PORT follows from the job's number: two clusters of tests do not meet
            f"FirstJobId={secrets.randbelow(9000) + 100}",
            # as many processors as the tests need, whatever the machine has
            "SlurmdParameters=config_overrides",
            *(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free()} "
                f"CPUs=2 RealMemory={memory}"
                for node in NODES
            ),
            "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        ]
        return "\n".join(lines) + "\n"

    def _daemon(self, *words: str) -> None:
        with (self.folder / f"log/{words[0]}{len(self.daemons)}.out").open("w") as log:
            self.daemons.append(
                subprocess.Popen(words, env=self.environment, stdout=log, stderr=log)
            )

    def ask(self, *words: str, check: bool = True) -> str:
        """Run a command of SLURM and return what it prints."""
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """Return what scontrol knows of a job."""
        words = self.ask("scontrol", "-o", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def lose(self, number: str) -> None:
        """Have the node of a job fail, and come back once nothing of the job is left on it."""
        self.ask("scontrol", "update", "nodename=n1", "state=down", "reason=test")
        self.wait(lambda: not _steps(number), 60, f"the end of what {number} had on its node")
        self.back()

    def back(self) -> None:
        """Have the node serve again."""
        self.ask("scontrol", "update", "nodename=n1", "state=resume")

    def wait(self, what: Callable[[], bool], seconds: float, of: str) -> None:
        """Wait until something is so; with the logs of the daemons if it does not become so."""
        self._until(what, of, seconds)

    def _until(self, what: Callable[[], bool], of: str, seconds: float = WAIT) -> None:
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end:
                logs = sorted((self.folder / "log").iterdir())
                tails = [f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs]
                raise AssertionError(f"waited in vain for {of}\n" + "\n".join(tails))
            time.sleep(0.25)

    def stop(self) -> None:
        """End the jobs, then the daemons, the last first."""
        self.ask("scancel", "--me", check=False)
        end = time.monotonic() + 20
        while self.ask("squeue", "-h", check=False) and time.monotonic() < end:
            time.sleep(0.25)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _steps(number: str) -> list[psutil.Process]:
    """Return the processes with which SLURM keeps those of a job; they show its number."""
    found = psutil.process_iter(["cmdline"])
    return [
        one for one in found if f"slurmstepd: [{number}." in " ".join(one.info["cmdline"] or ())
    ]
