import json
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import vitlab.evaluation.result as module
from vitlab.evaluation.counts import pack, unpack
from vitlab.evaluation.fields import plain
from vitlab.evaluation.registry import ProtocolSettings
from vitlab.evaluation.result import EVIDENCE, RESULT, Result, read_counts, refuse_overwriting
from vitlab.probes.metrics import AccuracyCounts, IoUCounts


def test_what_is_written_is_read_to_the_bit(results):
    evidence = results.overlaps()
    written = results.result(evidence).write(results.folder, evidence, results.names)
    assert Result.read(results.folder) == Result.read(results.folder / RESULT) == written
    assert written.tried == {"lr 0.1": evidence.value, "lr 10": None}  # NaN is not in JSON
    counts = read_counts(results.folder, written)
    assert counts is not None
    assert counts.names == results.names
    assert torch.equal(counts.evidence.both, evidence.both)
    assert counts.evidence.value == evidence.value
    assert {file.name for file in results.folder.iterdir()} == {RESULT, EVIDENCE}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    values=st.dictionaries(st.text(), JSON, max_size=3),
    scores=st.dictionaries(st.text(), st.floats(), max_size=3),
    text=st.text(),
)
def test_any_settings_scores_and_names_survive(results, values, scores, text):
    evidence = AccuracyCounts(torch.tensor([True, False]))
    result = results.result(evidence)
    result = replace(
        result,
        protocol=replace(
            result.protocol,
            settings=values,
            hash=ProtocolSettings(result.protocol.name, result.protocol.version, values).hash,
            changed={text: (text, values)},
        ),
        weights=replace(result.weights, path=text),
        scores={**scores, "top-1": 50.0},
        environment=values,
    )
    written = result.write(results.folder, evidence, [text, "a"], overwrite=True)
    assert Result.read(results.folder) == written
    assert read_counts(results.folder, written).names == (text, "a")


def test_names_that_are_no_unicode_survive():
    evidence = AccuracyCounts(torch.tensor([True]))
    assert unpack(pack(evidence, ["\udcff.jpg"])).names == ("\udcff.jpg",)


def test_a_result_is_not_overwritten_unless_told(results):
    evidence = results.overlaps()
    result = results.result(evidence)
    result.write(results.folder, evidence, results.names)
    with pytest.raises(ValueError, match="already holds a result"):
        result.write(results.folder, evidence, results.names)
    with pytest.raises(ValueError, match="--overwrite"):
        refuse_overwriting(results.folder)
    better = results.overlaps(0.1)
    again = results.result(better).write(results.folder, better, results.names, overwrite=True)
    assert Result.read(results.folder) == again
    assert read_counts(results.folder, again).evidence.value == better.value


@pytest.mark.parametrize("before", [False, True])
def test_killed_between_counts_and_result_leaves_no_result(results, monkeypatch, before):
    evidence = results.overlaps()
    if before:
        results.result(evidence).write(results.folder, evidence, results.names)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_json", killed)
    better = results.overlaps(0.1)
    with pytest.raises(KeyboardInterrupt):
        results.result(better).write(results.folder, better, results.names, overwrite=before)
    assert (results.folder / EVIDENCE).exists()
    with pytest.raises(ValueError, match="interrupted there"):
        Result.read(results.folder)
    monkeypatch.undo()
    results.result(better).write(results.folder, better, results.names)  # starts clean
    assert Result.read(results.folder).value == better.value


def edit(folder, change):
    content = json.loads((folder / RESULT).read_text())
    change(content)
    (folder / RESULT).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: c.pop("vitlab_result"), "not a result of `vitlab evaluate`"),
        (lambda c: c.update(vitlab_result=2), "has format 2, this vitlab reads 1"),
        (lambda c: c.pop("seed"), "lacks seed"),
        (lambda c: c.update(extra=1), "unknown extra"),
        (lambda c: c.update(seed="0"), "seed is '0', not a whole number"),
        (lambda c: c.update(seed=True), "seed is True"),
        (lambda c: c.update(interval=[1.0]), "interval is .*, not a list of 2"),
        (lambda c: c.update(interval=[2.0, 1.0]), "no interval"),
        (lambda c: c.update(headline="knn"), "headline 'knn' has no score"),
        (lambda c: c.update(chosen_on="test"), "chosen_on is 'test', not one of"),
        (lambda c: c.update(chosen="lr 3"), "not tried"),
        (lambda c: c.update(interval=[-1.0, 50.0]), "not within 0 and 100"),
        (lambda c: c.update(interval=[50.0, 101.0]), "not within 0 and 100"),
        (lambda c: c["protocol"].update(hash="0" * 12), "protocol.hash is '000000000000', but"),
        (lambda c: c["protocol"].update(version=2), "name, version and settings have"),
        (lambda c: c["protocol"].update(name="knn"), "name, version and settings have"),
        (lambda c: c["protocol"]["settings"]["init_args"].update(steps=1), "settings have"),
        (lambda c: c["scores"].update(mIoU=None), "has no score"),
        (lambda c: c["scores"].update(mIoU="81"), "scores.mIoU is '81', not a number"),
        (lambda c: c["scores"].update(mIoU=10**400), "not a finite number"),
        (lambda c: c["protocol"].update(settings=[]), "protocol.settings is .*, not an object"),
        (lambda c: c["protocol"].update(changed={"a": [1]}), "changed.a is"),
        (lambda c: c["data"].update(counts={"val": 1.5}), "data.counts.val is 1.5"),
        (lambda c: c.update(weights="dino.pth"), "weights is 'dino.pth', not an object"),
    ],
)
def test_a_file_of_others_is_refused_with_the_field(results, change, why):
    folder = results.write("a", "dino.pth")
    edit(folder, change)
    with pytest.raises(ValueError, match=why):
        Result.read(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"vitlab_result": 1, "seed": NaN}', "\x80abc", "[" * 99999]
)
def test_what_is_no_json_is_refused(results, text):
    (results.folder / RESULT).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"result\.json is (damaged|not a result)"):
        Result.read(results.folder)


def test_an_empty_folder_says_what_to_give(results):
    with pytest.raises(ValueError, match="give the folder of a `vitlab evaluate`"):
        Result.read(results.folder)


def test_damaged_counts_are_refused(results):
    folder = results.write("a", "dino.pth")
    result = Result.read(folder)
    whole = (folder / EVIDENCE).read_bytes()
    (folder / EVIDENCE).write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="not the one that the result beside it was made of"):
        read_counts(folder, result)
    (folder / EVIDENCE).unlink()
    assert read_counts(folder, result) is None


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"both": lambda x: x.double()}, "no counts"),
        ({"both": lambda x: x[:, :2]}, "no counts"),
        ({"both": lambda x: x + 10_000}, "no counts"),
        (
            {"truth": lambda x: x[:50], "both": lambda x: x[:50], "predicted": lambda x: x[:50]},
            "60 names",
        ),
        ({"other": lambda _: torch.ones(2)}, "no counts"),
        ({"names": lambda _: torch.ones(2)}, "no names"),
        ({"names": lambda x: x[:-1]}, "holds no counts"),
    ],
)
def test_counts_of_others_are_refused(results, tensors, why):
    folder = results.write("a", "dino.pth")
    kept = load_file(folder / EVIDENCE)
    kept |= {name: change(kept.get(name)).contiguous() for name, change in tensors.items()}
    save_file(kept, folder / EVIDENCE)
    claimed = module.hashlib.sha256((folder / EVIDENCE).read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=why):
        read_counts(folder, replace(Result.read(folder), evidence=claimed))


def test_an_edited_score_does_not_agree_with_its_counts(results):
    folder = results.write("a", "dino.pth")
    value = Result.read(folder).value
    for other in (99.0, value + 0.001):
        edit(folder, lambda c, other=other: c["scores"].update(mIoU=other))
        with pytest.raises(ValueError, match="the result was edited"):
            read_counts(folder, Result.read(folder))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda c: c["classes"].update({"class 1": 99.0}), "another IoU of 'class 1'"),
        (lambda c: c["classes"].update({"class 1": None}), "another IoU of 'class 1'"),
        (lambda c: c.update(classes=dict(reversed(c["classes"].items()))), "another IoU of"),
        (lambda c: c["classes"].update({"class 5": 50.0}), "has 5 classes, its result names 6"),
        (lambda c: c.update(classes={}), "has 5 classes, its result names 0"),
        (lambda c: c.update(classes={"class 1": 99.0}), "another IoU of 'class 1'"),
        (lambda c: c["data"].update(counts={"val": 59}), "has 60 images, its result says 59"),
    ],
)
def test_edited_classes_and_images_do_not_agree_with_their_counts(results, change, why):
    folder = results.write("a", "dino.pth")
    edit(folder, change)
    with pytest.raises(ValueError, match=rf"{why}.*the result was edited"):
        read_counts(folder, Result.read(folder))


def test_a_part_of_the_split_may_be_scored(results):
    folder = results.write("a", "dino.pth", None, {"counts": {"train": 9, "val": 1000}})
    assert len(read_counts(folder, Result.read(folder)).names) == 60


def test_classes_without_pixels_and_classes_of_one_name_agree_with_their_counts(results):
    own = results.overlaps()
    own = IoUCounts(*(torch.nn.functional.pad(each, (0, 1)) for each in own.tensors().values()))
    result = results.result(own)
    assert result.classes["class 5"] is None
    kept = dict(result.classes)
    kept["class 0"] = kept.pop("class 1")  # as a dict of both keeps the last
    for place, classes in enumerate((result.classes, kept)):
        folder = results.write(str(place), "dino.pth", own, {"classes": classes})
        assert read_counts(folder, Result.read(folder)) is not None


def test_the_hash_is_the_same_of_what_json_changes(results):
    values = {"sizes": (1, 2), "limit": float("inf"), 10: {2: True, 1: 1e-5}, "none": None}
    used = ProtocolSettings("a", 1, values)
    result = results.result(results.overlaps())
    protocol = replace(result.protocol, name="a", settings=values, hash=used.hash)
    replace(result, protocol=protocol).write(results.folder, results.overlaps(), results.names)
    assert Result.read(results.folder).protocol.hash == used.hash


@pytest.mark.filterwarnings("ignore:there are 40 training images")
@pytest.mark.parametrize(("protocol", "data"), [("knn", "imagenet"), ("vitlab-fast", "VOCdevkit")])
def test_a_result_of_the_command_agrees_with_its_hash_and_counts(
    evaluate, tmp_path, protocol, data
):
    result = evaluate(protocol, "--protocol.size", "64", data=data)
    counts = read_counts(tmp_path / "result", result)
    assert len(counts.names) == result.data.counts["val"]


def test_a_pickle_is_not_run(results):
    with pytest.raises(ValueError, match="damaged"):
        unpack(b"\x80\x04c__builtin__\neval\n.")


def test_what_json_cannot_hold_is_refused():
    assert plain({1: (float("inf"), [True])}) == {"1": [None, [True]]}
    with pytest.raises(ValueError, match="all a result holds"):
        plain({"device": torch.device("cpu")})
