import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitlab.evaluation import registry
from vitlab.evaluation.registry import ProtocolSettings, differences, find, merge, names

TREES = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


def write(folder, text, name="mine.yaml"):
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_protocol_is_read_from_a_file_of_ones_own(tmp_path):
    text = "name: mine\nversion: 2\nprotocol: {class_path: X, init_args: {a: {b: 1, c: 2}}}\n"
    text += "datasets: {VOC2012: {a: {b: 3}}}\n"
    protocol = find(write(tmp_path, text))
    assert protocol.on("VOC2012")["init_args"] == {"a": {"b": 3, "c": 2}}
    assert protocol.on("ADE20K")["init_args"] == {"a": {"b": 1, "c": 2}}


def test_an_unknown_name_shows_the_nearest(tmp_path, monkeypatch):
    for name in ("dinov2-linear", "knn"):
        write(tmp_path, "", f"{name}.yaml")
    monkeypatch.setattr(registry, "FOLDERS", (tmp_path,))
    with pytest.raises(ValueError, match="did you mean dinov2-linear"):
        find("dino2-linear")
    with pytest.raises(ValueError, match="The protocols are dinov2-linear, knn"):
        find("x")
    monkeypatch.setattr(registry, "FOLDERS", ())
    with pytest.raises(ValueError, match="no folder configs/protocols"):
        find("knn")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: [", "is not YAML"),
        ("a: 1", "is not a protocol"),
        ("name: mine\nversion: 1\nprotocol: {}\nother: 1", "is not a protocol"),
        ("name: other\nversion: 1\nprotocol: {}", "calls itself 'other'"),
    ],
)
def test_a_file_that_is_no_protocol_is_refused(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        find(write(tmp_path, text))


def test_every_protocol_of_the_project_is_readable():
    for name in names():
        assert find(name).name == name


def test_the_hash_stands_for_name_version_and_settings():
    same = ProtocolSettings("a", 1, {"x": 1, "y": [2]}).hash
    assert same == ProtocolSettings("a", 1, {"y": [2], "x": 1}).hash
    others = [
        ProtocolSettings("b", 1, {"x": 1, "y": [2]}),
        ProtocolSettings("a", 2, {"x": 1, "y": [2]}),
    ]
    others += [ProtocolSettings("a", 1, {"x": 1, "y": [3]})]
    assert same not in {each.hash for each in others}
    assert len(same) == 12


@given(TREES, TREES)
def test_two_trees_differ_where_it_is_said(first, second):
    assert (differences(first, second) == {}) == (first == second)


@given(st.dictionaries(st.sampled_from("abc"), TREES))
def test_merging_is_idempotent_and_neutral(tree):
    assert merge(tree, {}) == tree
    assert merge(tree, tree) == tree
