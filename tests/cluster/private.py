"""A SLURM of two nodes on one machine, in a folder: daemons of our own, no service, root or not."""

import os
import platform
import pwd
import secrets
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
from chaos import wait

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "sinfo")
NODES = ("n1", "n2")
# cred_expire: seconds that a job that is started again waits, 120 by default. ReturnToService: a
# node that was called down stays so until `back`. FirstJobId: MASTER_PORT follows from it, and two
# clusters of tests do not meet. config_overrides: as many processors as the tests need.
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/sock,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=1
KillWait=5
FirstJobId={first}
SlurmdParameters=config_overrides
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory={mib}"


def missing() -> list[str]:
    """Return the programs that are not installed; Debian keeps the daemons in sbin."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


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
        folder, host = self.folder, platform.node().split(".")[0]
        for name in ("state", "log", *(f"spool/{node}" for node in NODES)):
            (folder / name).mkdir(parents=True)
        (folder / "key").write_bytes(secrets.token_bytes(1024))
        (folder / "key").chmod(0o400)
        names = {"socket": "sock", "pid-file": "munged.pid", "log-file": "log/munged"}
        names |= {"key-file": "key", "seed-file": "seed"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        self._daemon("munged", "--foreground", "--num-threads=1", *options)
        self.wait((folder / "sock").exists, "munged")
        mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 * 9 // 10
        facts = {"folder": folder, "host": host, "user": pwd.getpwuid(os.getuid()).pw_name}
        text = CONFIG.format(**facts, port=_free(), first=secrets.randbelow(9000) + 100)
        nodes = [NODE.format(node=node, host=host, port=_free(), mib=mib) for node in NODES]
        (folder / "slurm.conf").write_text(text + "\n".join(nodes) + "\n")
        self._daemon("slurmctld", "-D")
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node)
        words = ("sinfo", "-h", "-N", "-o", "%T")
        self.wait(lambda: self.ask(*words, check=False).split() == ["idle"] * len(NODES), "slurm")

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
        self.wait(lambda: not _steps(number), f"the end of what {number} had on its node")
        self.back()

    def back(self) -> None:
        """Have the node serve again."""
        self.ask("scontrol", "update", "nodename=n1", "state=resume")

    def wait(self, what: Callable[[], bool], of: str, seconds: float = 60) -> None:
        """Wait until something is so; with the logs of the daemons if it does not become so."""
        if not wait(what, seconds, interval=0.25):
            logs = sorted((self.folder / "log").iterdir())
            tails = [f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs]
            raise AssertionError(f"waited in vain for {of}\n" + "\n".join(tails))

    def stop(self) -> None:
        """End the jobs, then the daemons, the last first."""
        self.ask("scancel", "--me", check=False)
        wait(lambda: not self.ask("squeue", "-h", check=False), 20, interval=0.25)
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
