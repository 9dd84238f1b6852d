"""`refused`: asserts the class and field of an error, and its wording against one golden table."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vitlab.errors import InputError

TABLES = Path(__file__).parent / "references/messages"
UPDATE = "VITLAB_UPDATE_MESSAGES"
_counts: dict[str, int] = {}  # refusals so far of each test


@contextmanager
def refused(
    field: str | None = None, kind: type[Exception] = InputError, wording: bool = True
) -> Iterator[pytest.ExceptionInfo]:
    """Expect an error; `VITLAB_UPDATE_MESSAGES=1` writes its message into the golden table.

    Args:
        field: the error's `field`; None for errors of other classes, which have none.
        kind: class of the error.
        wording: whether the message is the same on every machine, and so is in the table.
    """
    with pytest.raises(kind) as info:
        yield info
    if field is not None:
        assert info.value.field == field, f"{info.value.field!r}: {info.value}"
    if wording:
        check_wording(str(info.value))


def check_wording(message: str) -> None:
    """Compare a message with the golden table's entry of the running test.

    The table is one file for each folder of tests; the key is the test and the number of the
    refusal in it. Temporary folders and the repository are left out of the message.
    """
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
    count = _counts[test] = _counts.get(test, -1) + 1
    path, _, name = test.partition("::")
    parts = Path(path).parts
    parts = parts[parts.index("tests") + 1 :]
    table = TABLES / f"{parts[0] if len(parts) > 1 else 'tests'}.json"
    key = f"{'/'.join(parts)}::{name}#{count}"
    found = _neutral(message)
    known = json.loads(table.read_text()) if table.exists() else {}
    if os.environ.get(UPDATE):
        known[key] = found
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(json.dumps(known, indent=0, sort_keys=True, ensure_ascii=False) + "\n")
    else:
        assert _neutral(known.get(key, "")) == found, (
            f"a message has changed; {UPDATE}=1 accepts it"
        )


def _neutral(message: str) -> str:
    message = re.sub(r"\S*/pytest-of-[^/]+/pytest-\d+(/popen-gw\d+)?/", "TMP/", message)
    # the folder of a test has a number that depends on the other tests of the run
    message = re.sub(r"TMP/(test_[^/\s]*?|[a-z_]+)\d+(?=[/\s:;,)]|$)", "TMP", message)
    return message.replace(str(Path(__file__).parents[1]), "ROOT")
