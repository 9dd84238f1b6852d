import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.private import Cluster, missing


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A real SLURM of our own, where its programs are installed."""
    if absent := missing():
        pytest.skip(f"SLURM is not installed: there is no {', '.join(absent)}")
    folder = Path(tempfile.mkdtemp(prefix="vitlab-"))  # a short name, as sockets need
    folder.chmod(0o755)
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)
