"""No config, checkpoint, protocol or command line imports or calls what is not allowed."""

import pickle
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentError, Namespace
from runs import CONFIGS, refusal

from vitlab import config_safety
from vitlab.cli import main
from vitlab.errors import InputError
from vitlab.evaluation import registry
from vitlab.optim.lr_schedule import LRSchedule
from vitlab.run.module import Pretraining

FIT = ["fit", "--config", str(CONFIGS / "dino.yaml"), "--data.root", "nowhere"]
KNN = ["evaluate", "--protocol", "knn", "--data.root", "."]
RUNS = "import pathlib; pathlib.Path('RAN').touch()\n"
STRANGER = RUNS + "from lightning import Callback\nclass Guest(Callback): ...\n"
GUEST = "a_stranger.Guest"
CALLBACK = {"class_path": GUEST}


class Code:
    """A pickle that would run something."""

    def __reduce__(self):
        return (Path.touch, (Path("RAN"),))


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    """A folder that Python imports from, with a module of a stranger that must not be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "a_stranger.py").write_text(STRANGER)
    yield
    assert not (tmp_path / "RAN").exists()
    assert "a_stranger" not in sys.modules


def refused(words, capsys):
    refusal(main, words)
    return " ".join(capsys.readouterr().err.split())


def config(content, name="given.yaml"):
    Path(name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return name


NAMES = {
    "os.system": "os",
    "subprocess.Popen": "subprocess",
    "builtins.exec": "builtins",
    "pathlib.Path.touch": "pathlib",
    "torchvision.models.resnet18": "torchvision",
    **{name: name for name in ("torch.hub.load", "torch.load", "torch.utils.cpp_extension.load")},
    GUEST: "a_stranger",
}
PLACES = {
    "trainer.callbacks[0].class_path": lambda it: {"trainer": {"callbacks": [it]}},
    "data.class_path": lambda it: {"data": it},
    "model.objective.init_args.encoder.class_path": (
        lambda it: {"model": {"objective": {"init_args": {"encoder": it}}}}
    ),
    "probing.dense.voc2012.class_path": lambda it: {"probing": {"dense": {"voc2012": it}}},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_that_names_another_class_is_refused_by_file_key_and_name(name, monkeypatch):
    for key, place in PLACES.items():
        content = place({"class_path": name, "init_args": {"x": 1}})
        words = [*FIT[1:], "--config", config(content)]
        monkeypatch.delenv("VITLAB_ALLOW", raising=False)
        with pytest.raises(InputError, match="may only build classes") as error:
            config_safety.check_command_line(words)
        message = str(error.value)
        assert error.value.field == key
        assert message.startswith(f"given.yaml: {key} names {name}, ")
        assert message.endswith(f"VITLAB_ALLOW={NAMES[name]}")
        monkeypatch.setenv("VITLAB_ALLOW", NAMES[name])
        config_safety.check_config(content, "given.yaml")


HOOK = "lightning.pytorch.callbacks.LambdaCallback"
LOAD = "lightning.fabric.utilities.cloud_io._load"
PYTHON = 'trainer: {callbacks: !!python/object/apply:pathlib.Path.touch ["RAN"]}'


def hook(function: object) -> dict:
    init_args = {"on_fit_start": function}
    return {"trainer": {"callbacks": [{"class_path": HOOK, "init_args": init_args}]}}


HOSTILE = [
    *({"trainer": {"logger": name}} for name in (GUEST, "torch.hub.os.system")),
    *({"data": GUEST}, {"data": {"transform": "inner.yaml"}}, {"trainer.callbacks": [CALLBACK]}),
    *({"model": {"objective": "inner.yaml"}}, hook(GUEST), PYTHON, "!!python/module:a_stranger {}"),
]


@pytest.mark.parametrize(
    ("words", "content"),
    [
        (["--config=given.yaml"], {"trainer": {"callbacks": [CALLBACK]}}),
        *((["--config", "given.yaml"], content) for content in HOSTILE),
        (["--trainer.callbacks", '[{"class_path": "a_stranger.Guest"}]'], {}),
        (["--trainer.callbacks", GUEST], {}),
        (["--trainer.callbacks+=a_stranger.Guest"], {}),
        (["--trainer.logger.class_path", GUEST], {}),
        (["--data", GUEST], {}),
        (["--data.transform", "inner.yaml"], {}),
        (["--data.transform.help", GUEST], {}),
    ],
)
def test_by_no_way_a_class_from_elsewhere_is_imported(words, content, capsys):
    config(content)
    config(CALLBACK, "inner.yaml")
    assert "no folder" not in refused([*FIT, *words], capsys)  # of the data, once all is parsed


@pytest.mark.parametrize(
    "given",
    [
        {"class_path": "torch.utils.collect_env.run", "init_args": {"command": "touch RAN"}},
        {"class_path": "vitlab.cli.main", "init_args": {"args": ["data", "synthesize"]}},
        {"class_path": LOAD, "init_args": {"path_or_url": "bad.pt", "weights_only": False}},
        "torch.utils.collect_env.run",
        "torch.distributed.launcher.elastic_launch",
    ],
)
def test_a_function_is_no_class_though_its_package_is_allowed(given, capsys):
    torch.save({"x": Code()}, "bad.pt")
    message = refused([*FIT, "--config", config(hook(given))], capsys)
    assert "is no class" in message or "torch.distributed.launcher" in message


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (Namespace(a=Namespace(class_path="torch.utils.collect_env.run")), "a.class_path"),
        (Namespace(data={"voc": Namespace(class_path="vitlab.cli.main")}), "data.voc.class_path"),
        ({"a": [{"class_path": "torch.nn.functional.relu"}]}, "a[0].class_path"),
        ({"a": {"class_path": "torch.nn.Linear", "init_args": {"b": main}}}, "a.init_args.b"),
        ({"a": (torch.relu,)}, "a[0]"),
        ({"a": [partial(print)]}, "a[0]"),
        ({"a": lru_cache(print)}, "a"),
        ({"a": np.add}, "a"),
    ],
)
def test_a_parser_builds_from_no_function_wherever_it_stands(content, key):
    with pytest.raises(InputError, match="is no class, was not called") as error:
        config_safety.refuse_functions(content)
    assert error.value.field == key


def test_classes_and_defaults_of_ours_are_built():
    content = {"a": torch.nn.Linear, "b": Namespace(class_path="torch.nn.Linear"), "c": Path("x")}
    config_safety.refuse_functions({**content, "d": LRSchedule(), "e": torch.nn.ReLU()})
    parser = config_safety.ClassParser(exit_on_error=False)
    parser.add_argument("--hook", type=Callable)
    config_safety.restrict_imports()
    with pytest.raises(InputError) as error:
        parser.instantiate_classes(parser.parse_object({"hook": "torch.nn.functional.relu"}))
    assert error.value.field == "hook"


def test_the_user_can_allow_a_function_or_a_package(capsys, monkeypatch):
    words = [*FIT, "--config", config(hook("vitlab.cli.main"))]
    assert "vitlab.cli.main, which is no class" in refused(words, capsys)
    monkeypatch.setenv("VITLAB_ALLOW", "vitlab.cli.main, my_package")
    assert "there is no folder nowhere" in refused(words, capsys)  # of the data, once all is built
    Path("my_package.py").write_text(STRANGER.replace(RUNS, "print('imported by choice')\n"))
    words = [*FIT, "--trainer.callbacks", "my_package.Guest", "--print_config"]
    refusal(main, words, code=0)
    printed = capsys.readouterr().out
    assert "imported by choice" in printed
    assert "class_path: my_package.Guest" in printed
    monkeypatch.setenv("VITLAB_ALLOW", "fine,../other")
    with pytest.raises(InputError, match=r"VITLAB_ALLOW has '\.\./other'"):
        config_safety.check_config({"class_path": "other.Thing"}, "x.yaml")


def test_protocols_and_encoders_from_elsewhere_are_refused(capsys):
    theirs = config({"name": "theirs", "version": 1, "protocol": CALLBACK}, "theirs.yaml")
    with pytest.raises(ValueError, match=r"theirs\.yaml: protocol\.class_path names a_stranger"):
        registry.read_protocol(Path(theirs))
    words = ["--weights", "x", "--data", "Folder", "--protocol.class_path", GUEST]
    assert "a_stranger" in refused([*KNN, *words], capsys)
    content = {"model": {"objective": {"init_args": {"encoder": CALLBACK}}}}
    error = refused(["cost", "--config", config(content)], capsys)
    assert "class_path names a_stranger.Guest" in error


@pytest.mark.parametrize("key", ["objective", "optimizer", "_class_path"])
def test_a_checkpoint_builds_no_class_from_elsewhere(key):
    hyper = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
    hyper |= {"objective": {"class_path": "DINO"}}
    hyper |= {key: GUEST if key == "_class_path" else CALLBACK}
    content = {"pytorch-lightning_version": "2.6.0", "state_dict": {}, "hyper_parameters": hyper}
    torch.save({**content, "epoch": 0, "global_step": 0}, "bad.ckpt")
    with pytest.raises(
        (ValueError, TypeError, ArgumentError), match=r"a_stranger|optimizer|settings of no model"
    ):
        Pretraining.load_from_checkpoint("bad.ckpt", weights_only=True)


@pytest.mark.parametrize(
    "words",
    [
        [*FIT, "--run-dir", "run", "--ckpt_path", "bad.ckpt"],
        [*KNN, "--weights", "bad.ckpt", "--data", "Folder", "--out", "out"],
        ["export", "--weights", "bad.ckpt", "--out", "out"],
        ["import", "--weights", "bad.ckpt", "--out", "out"],
        ["cost", "--config", "bad.ckpt"],
        ["curves", "bad"],
        ["compare", "bad"],
        ["runs", "bad"],
        ["data", "check", "--root", "bad"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_with_code_is_run_by_no_verb(words, zipped):
    content = {"pytorch-lightning_version": "2.6.0", "state_dict": {}, "x": Code()}
    torch.save(content, "bad.ckpt", _use_new_zipfile_serialization=zipped)
    Path("bad/seed0").mkdir(parents=True)
    for name in ("last.ckpt", "best.ckpt", "results.json", "measurements.json", "status.json"):
        (Path("bad/seed0") / name).write_bytes(pickle.dumps(Code()))
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code in (1, 2)  # noqa: PT017
    else:
        assert words[0] == "runs"  # it looks at many folders, and reads no checkpoint


BOMB = "a0: &a0 [0]\n" + "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)
)


def test_a_config_nested_or_repeated_without_end_is_refused():
    for text in ("[" * 3000 + "]" * 3000, "trainer: &t {callbacks: [*t]}", BOMB):
        with pytest.raises(ValueError, match=r"given\.yaml (is|holds)"):
            config_safety.check_command_line(["--config", config(text)])


def test_every_config_of_ours_passes():
    files = sorted(CONFIGS.rglob("*.yaml"))
    assert len(files) > 20
    for file in files:
        config_safety.check_config(config_safety.read_yaml(file), file)


STRANGE = st.sampled_from(["os.system", "x.Y", "torch.hub.load", "vitlab2.X", "torch_.X"])
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@given(
    st.recursive(
        STRANGE.map(lambda name: {"class_path": name}),
        lambda inner: (
            st.tuples(st.lists(PLAIN, max_size=2), inner).map(lambda both: [*both[0], both[1]])
            | st.tuples(st.text(max_size=5), inner).map(lambda both: {"z": 1, both[0]: both[1]})
        ),
        max_leaves=5,
    )
)
def test_a_class_from_elsewhere_is_found_however_deep_it_lies(content):
    with pytest.raises(ValueError, match="may only build"):
        config_safety.check_config(content, "x.yaml")
