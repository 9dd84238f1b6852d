"""Names in `probing` become parts of files."""

import pytest
from refusals import refused

from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.data import Folder
from vitlab.probes import KNN

VALUES = {"dense": Folder("none"), "more": KNN()}


@pytest.mark.parametrize("field", ["dense", "more"])
@pytest.mark.parametrize(
    "name",
    ["../../x", "/x", "a/b", "", ".", "..", ".x", "a\nb", "\x1b[2J", "a b", "x" * 101, "\udcff"]
)  # fmt: skip
def test_a_name_that_is_no_part_of_a_file_is_refused(name, field):
    with refused(f"probing.{field}", wording=False):
        OnlineProbes(**{field: {name: VALUES[field]}})


def test_names_of_every_script_are_taken():
    OnlineProbes(dense=dict.fromkeys(["voc2012", "größe-2", "中文", "a.b+c_d"], VALUES["dense"]))
