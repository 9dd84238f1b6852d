"""Loaders whose processes fail are noticed, and a small shared memory is seen before a run."""

import pytest
import torch
from refusals import refused
from torch.utils.data import Dataset

from vitlab.data import Loader, loader
from vitlab.data.loader import NO_ROOM, LoadingError, check_room


class Broken(Dataset):
    """Each item is something that cannot be handed to another process."""

    def __init__(self, error: OSError | None):
        self.error = error

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.ones(2)

    def collate(self, items: list) -> object:
        return Unsendable(self.error) if self.error else (lambda: None)


class Unsendable:
    def __init__(self, error: OSError):
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "words", "code"),
    [
        (None, "a batch cannot be handed over", 1),
        (OSError(28, "No space left on device"), "--shm-size", NO_ROOM),
    ],
)
def test_a_batch_that_cannot_be_handed_over_ends_the_wait(capfd, error, words, code):
    data = Broken(error)
    with pytest.raises(LoadingError) as ended:
        list(Loader(data, 2, num_workers=1, collate_fn=data.collate))
    assert ("for the reason above" if code == 1 else words) in str(ended.value)
    assert words in capfd.readouterr().err


def test_an_error_of_the_code_that_loads_stays_what_it_is():
    def broken(items: list) -> object:
        raise RuntimeError("of a transform")

    with pytest.raises(RuntimeError, match="Caught RuntimeError in DataLoader worker"):
        list(Loader(torch.arange(4), 2, num_workers=1, collate_fn=broken))


def test_a_loader_yields_what_torchs_does_and_draws_nothing():
    state = torch.get_rng_state()
    assert [batch.tolist() for batch in Loader(torch.arange(5), 2)] == [[0, 1], [2, 3], [4]]
    assert torch.equal(state, torch.get_rng_state())


def test_a_shared_memory_without_room_for_a_batch_of_each_process_is_refused(monkeypatch, tmp_path):
    usage = loader.shutil.disk_usage(tmp_path)._replace(total=2**26, free=2**26)
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(loader, "SHARED", tmp_path)
    check_room(2**23, 8)
    with refused("data.num_workers"):
        check_room(2**23, 9)
    monkeypatch.setattr(loader, "SHARED", tmp_path / "none")  # as on other systems
    check_room(2**30, 9)
