import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from vitlab.config_files import find_protocol, protocol_names
from vitlab.evaluation.registry import (
    differences,
    merge,
    protocol_hash,
    read_protocol,
    read_references,
)

TREES = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
IMAGES = {"ImageNet": 50000, "VOC2012": 1449, "ADE20K": 2000, "Cityscapes": 500}


def test_a_protocol_is_read_from_a_file_of_ones_own(tmp_path):
    text = "name: mine\nversion: 2\nprotocol: {class_path: X, init_args: {a: {b: 1, c: 2}}}\n"
    (tmp_path / "mine.yaml").write_text(text + "datasets: {VOC2012: {a: {b: 3}}}\n")
    protocol = read_protocol(tmp_path / "mine.yaml")
    assert protocol.on("VOC2012")["init_args"] == {"a": {"b": 3, "c": 2}}
    assert protocol.on("ADE20K")["init_args"] == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("dino2-linear", ""), ("x", ""), ("mine.yaml", "name: ["), ("mine.yaml", "a: 1")),
        ("mine.yaml", "name: mine\nversion: 1\nprotocol: {}\nother: 1"),
        ("mine.yaml", "name: other\nversion: 1\nprotocol: {}"),
    ],
)
def test_unknown_names_and_files_of_another_kind_are_refused(tmp_path, monkeypatch, name, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    with refused("--protocol"):
        read_protocol(find_protocol(name))


def test_every_protocol_of_the_project_states_its_source():
    assert len(protocol_names()) == 14
    for name, path in protocol_names().items():
        assert read_protocol(find_protocol(name)).name == name
        assert re.search("[Pp]ublished|Corrected|Read in", path.read_text()), name


def test_the_hash_stands_for_name_version_and_settings():
    settings = {"x": float("inf"), "y": (2, {3: None})}
    found = protocol_hash("a", 1, settings)
    assert found == protocol_hash("a", 1, {"y": [2, {"3": None}], "x": None})  # as JSON has it
    assert len(found) == 12
    others = ("b", 1, settings), ("a", 2, settings), ("a", 1, {**settings, "y": [3]})
    assert len({found, *(protocol_hash(*each) for each in others)}) == 4


@given(TREES, st.dictionaries(st.sampled_from("abc"), TREES))
def test_trees_differ_where_it_is_said_and_merge(first, second):
    assert (differences(first, second) == {}) == (first == second)
    assert merge(second, {}) == merge(second, second) == second


def test_each_published_number_is_there_once_with_its_source():
    published = read_references()
    same = ["protocol", "dataset", "model", "conditions", "source"]
    assert not published.duplicated(same).any()
    assert published.percent.between(0, 100).all()
    assert (published.images == published.dataset.map(IMAGES)).all()
    assert published.source.all()
    dino = published[published.model == "DINO ViT-S/16, 800 epochs"]
    assert list(dino.percent[dino.protocol == "knn"]) == [74.5]
