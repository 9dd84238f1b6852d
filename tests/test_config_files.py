import pytest
from refusals import refused

from vitlab.cli import main
from vitlab.config_files import CONFIGS, config_names, find_config, resolve_configs


def test_a_config_is_found_by_its_name_as_in_the_docs_and_by_its_path(tmp_path, monkeypatch):
    file = CONFIGS / "hardware/gpu_1.yaml"
    monkeypatch.chdir(tmp_path)
    for name in ("hardware/gpu_1", "hardware/gpu_1.yaml", "configs/hardware/gpu_1.yaml"):
        assert find_config(name) == file
    own = tmp_path / "dino.yaml"
    own.touch()
    assert find_config(str(own)) == own


def test_names_are_all_configs_but_no_published_numbers():
    assert {"dino_entmax", "prompts/cub", "protocols/knn"} <= set(config_names())
    assert "protocols/references" not in config_names()


def test_a_command_line_has_paths_for_names():
    words = ["--config", "dino", "--x", "dino", "--config=small", "-c", "demo"]
    dino, small, demo = (str(CONFIGS / f"{name}.yaml") for name in ("dino", "small", "demo"))
    found = resolve_configs(words)
    assert found == ["--config", dino, "--x", "dino", f"--config={small}", "-c", demo]


@pytest.mark.parametrize("name", ["dino_entmaks", "nothing/like/it.yaml"])
def test_an_unknown_name_shows_the_nearest(name):
    with refused("--config"):
        find_config(name)


def test_the_verb_lists_and_copies_and_never_overwrites(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["configs"])
    assert "dino_entmax" in capsys.readouterr().out
    main(["configs", "--copy", "hardware/gpu_1"])
    assert (tmp_path / "gpu_1.yaml").read_bytes() == find_config("hardware/gpu_1").read_bytes()
    with pytest.raises(SystemExit) as end:
        main(["configs", "--copy", "hardware/gpu_1"])
    assert end.value.code == 2
