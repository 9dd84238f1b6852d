import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from vitlab.evaluation.registry import differences, find, merge, names, protocol_hash

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


@pytest.mark.parametrize("name", ["dino2-linear", "x"])
def test_an_unknown_name_shows_the_nearest(name):
    with refused("--protocol"):
        find(name)


@pytest.mark.parametrize(
    "text",
    [
        "name: [",
        "a: 1",
        "name: mine\nversion: 1\nprotocol: {}\nother: 1",
        "name: other\nversion: 1\nprotocol: {}",
    ],
)
def test_a_file_that_is_no_protocol_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, text)
    with refused("--protocol"):
        find("mine.yaml")


def test_every_protocol_of_the_project_is_short_and_states_its_source():
    assert len(names()) == 14
    for name, path in names().items():
        assert find(name).name == name
        text = path.read_text()
        assert len(text.splitlines()) <= 40
        assert "vitlab evaluate" in text
        assert "ublished" in text or "Corrected" in text or "Read in" in text, name


def test_the_hash_stands_for_name_version_and_settings():
    same = protocol_hash("a", 1, {"x": 1, "y": [2]})
    assert same == protocol_hash("a", 1, {"y": [2], "x": 1})
    assert len(same) == 12
    for other in (("b", 1, [2]), ("a", 2, [2]), ("a", 1, [3])):
        name, version, y = other
        assert protocol_hash(name, version, {"x": 1, "y": y}) != same


@given(TREES, TREES)
def test_two_trees_differ_where_it_is_said(first, second):
    assert (differences(first, second) == {}) == (first == second)


@given(st.dictionaries(st.sampled_from("abc"), TREES))
def test_merging_is_idempotent_and_neutral(tree):
    assert merge(tree, {}) == tree
    assert merge(tree, tree) == tree
