import json
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import vitlab.evaluation.result as module
from vitlab.atomic_io import plain
from vitlab.evaluation.result import COUNTS, RESULT, Result, read_counts, refuse_overwriting

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


SHARED = [HealthCheck.function_scoped_fixture]


@settings(max_examples=40, suppress_health_check=SHARED)
@given(JSON, st.text(min_size=1))
def test_what_is_written_is_read_to_the_bit(results, value, text):
    counts = results.counts()
    result = results.result(counts)
    protocol = replace(result.protocol, settings={"a": value}, changed={text: (value, None)})
    result = replace(result, protocol=protocol, environment={text: value})
    result.write(results.folder, counts, [text] * 60, overwrite=True)
    assert {file.name for file in results.folder.iterdir()} == {RESULT, COUNTS}
    read, found = Result.read(results.folder), read_counts(results.folder)
    assert read.protocol.settings == plain({"a": value})
    assert read.protocol.changed == {text: (plain(value), None)}
    assert read.environment == plain({text: value})
    assert read.tried == {"lr 0.1": counts.value, "lr 10": None}  # NaN
    same = {name: getattr(result, name) for name in ("protocol", "environment", "tried")}
    assert replace(read, **same) == result
    assert found.names == (text,) * 60
    for name, tensor in counts.tensors().items():
        assert torch.equal(found.counts.tensors()[name], tensor)


@pytest.mark.parametrize("before", [False, True])
def test_killed_between_counts_and_result_leaves_no_result(results, monkeypatch, before):
    counts = results.counts()
    if before:
        results.result(counts).write(results.folder, counts, results.names)
        with refused("--out"):
            refuse_overwriting(results.folder)
    monkeypatch.setattr(module, "write_json", lambda *_: 1 / 0)
    better = results.counts(0.1)
    with pytest.raises(ZeroDivisionError):
        results.result(better).write(results.folder, better, results.names, overwrite=before)
    assert (results.folder / COUNTS).exists()
    with refused(RESULT):
        Result.read(results.folder)
    monkeypatch.undo()
    results.result(better).write(results.folder, better, results.names)  # starts clean
    assert Result.read(results.folder).value == better.value


@pytest.mark.parametrize(
    "change",
    [
        *({"vitlab_result": 2}, {"extra": 1}, {"seed": "0"}, {"seed": None}, None),
        *({"scores": {"mIoU": "81"}}, {"weights": "dino.pth"}),
    ],
)
def test_a_file_of_another_kind_is_refused_with_the_field(results, change):
    folder = results.write("a", "dino.pth")
    content = json.loads((folder / RESULT).read_text())
    if change == {"seed": None}:
        del content["seed"]
    else:
        content = change and content | change
    (folder / RESULT).write_text(json.dumps(content))
    with refused(RESULT):
        Result.read(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x04c__builtin__\neval\n.", None])
def test_damaged_counts_are_refused_and_missing_ones_are_none(results, content):
    folder = results.write("a", "dino.pth")
    whole = (folder / COUNTS).read_bytes()
    (folder / COUNTS).write_bytes(whole[:-1] if content is None else content)
    with refused(COUNTS, wording=False):
        read_counts(folder)
    (folder / COUNTS).unlink()
    assert read_counts(folder) is None


def test_tensorboard_shows_scores_classes_and_the_sheet(results):
    result = results.result(results.counts())
    for _ in range(2):  # the second replaces the first
        result.write_events(results.folder, torch.zeros(3, 20, 30, dtype=torch.uint8))
    (file,) = results.folder.iterdir()
    events = EventAccumulator(str(file)).Reload()
    tags = events.Tags()
    place = "VOC2012/dinov2-linear"
    classes = {f"{place}/iou/class {index}" for index in range(5)}
    assert set(tags["scalars"]) == {f"{place}/mIoU", f"{place}/accuracy"} | classes
    assert events.Scalars(f"{place}/mIoU")[0].value == pytest.approx(result.value)
    assert tags["images"] == [f"{place}/predictions"]
    assert tags["tensors"] == [f"{place}/text_summary"]
