import io
import pickle
import sys
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentError, Namespace

from vitlab import config_safety
from vitlab.cli import main
from vitlab.errors import InputError
from vitlab.optim.lr_schedule import LRSchedule
from vitlab.training import Pretraining

ROOT = Path(__file__).parents[1]
FIT = ["fit", "--config", str(ROOT / "configs/dino.yaml"), "--data.root", "nowhere"]
KNN = ["evaluate", "--protocol", "knn", "--data.root", "."]
RUNS = "import pathlib; pathlib.Path('RAN').touch()\n"
STRANGER = RUNS + "from lightning import Callback\nclass Guest(Callback): ...\n"
CALLBACK = {"class_path": "a_stranger.Guest"}


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
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def config(content, name="given.yaml"):
    Path(name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return name


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("os.system", {"command": "touch RAN"}),
        ("subprocess.Popen", {"args": ["touch", "RAN"]}),
        ("builtins.exec", {"source": RUNS}),
        ("pathlib.Path.touch", {}),
        ("torch.hub.load", {"repo_or_dir": ".", "source": "local", "model": "x"}),
        ("torch.load", {"f": "bad.pt", "weights_only": False}),
        ("torch.utils.cpp_extension.load", {"name": "x", "sources": "x.cpp"}),
        ("torchvision.models.resnet18", {}),
        ("a_stranger.Guest", {}),
    ],
)
@pytest.mark.parametrize(
    ("key", "place"),
    [
        ("trainer.callbacks[0].class_path", lambda it: {"trainer": {"callbacks": [it]}}),
        ("data.class_path", lambda it: {"data": it}),
        (
            "model.objective.init_args.encoder.class_path",
            lambda it: {"model": {"objective": {"init_args": {"encoder": it}}}},
        ),
        (
            "data.init_args.transform.init_args.size.class_path",
            lambda it: {"data": {"init_args": {"transform": {"init_args": {"size": it}}}}},
        ),
        (
            "probing.dense.voc2012.class_path",
            lambda it: {"probing": {"dense": {"voc2012": it}}},
        ),
    ],
)
def test_a_config_that_names_another_class_is_refused_by_file_key_and_name(
    name, arguments, key, place, monkeypatch
):
    given = config(place({"class_path": name, "init_args": arguments}))
    with pytest.raises(ValueError, match="may only build classes") as error:
        config_safety.check_command_line([*FIT[1:], "--config", given])
    message = str(error.value)
    assert message.startswith(f"{given}: {key} names {name}, ")
    allowed = message.rpartition("VITLAB_ALLOW=")[2]
    assert allowed == (name if name.startswith("torch.") else name.split(".")[0])
    monkeypatch.setenv("VITLAB_ALLOW", allowed)
    config_safety.check_config(place({"class_path": name, "init_args": arguments}), given)


@pytest.mark.parametrize(
    ("words", "content"),
    [
        (["--config", "given.yaml"], {"trainer": {"callbacks": [CALLBACK]}}),
        (["--config=given.yaml"], {"trainer": {"callbacks": [CALLBACK]}}),
        (["--config", "given.yaml"], {"trainer": {"logger": "a_stranger.Guest"}}),
        (["--config", "given.yaml"], {"data": "a_stranger.Guest"}),
        (["--config", "given.yaml"], {"data": {"transform": "inner.yaml"}}),
        (["--config", "given.yaml"], {"trainer.callbacks": [CALLBACK]}),
        (["--trainer.callbacks", '[{"class_path": "a_stranger.Guest"}]'], {}),
        (["--trainer.callbacks", "a_stranger.Guest"], {}),
        (["--trainer.callbacks+=a_stranger.Guest"], {}),
        (["--trainer.logger.class_path", "a_stranger.Guest"], {}),
        (["--data", "a_stranger.Guest"], {}),
        (["--data.transform", "inner.yaml"], {}),
        (["--data.transform.help", "a_stranger.Guest"], {}),
        (["--config", "given.yaml"], {"trainer": {"logger": "torch.hub.os.system"}}),
        (["--config", "given.yaml"], {"model": {"objective": "inner.yaml"}}),
        (
            ["--config", "given.yaml"],
            {
                "trainer": {
                    "callbacks": [
                        {
                            "class_path": "lightning.pytorch.callbacks.LambdaCallback",
                            "init_args": {"on_fit_start": "a_stranger.Guest"},
                        }
                    ]
                }
            },
        ),
        (
            ["--config", "given.yaml"],
            'trainer: {callbacks: !!python/object/apply:pathlib.Path.touch ["RAN"]}',
        ),
        (["--config", "given.yaml"], "!!python/module:a_stranger {}"),
    ],
)
def test_by_no_way_a_class_from_elsewhere_is_imported(words, content, capsys):
    config(content)
    config(CALLBACK, "inner.yaml")
    assert "no folder" not in refused([*FIT, *words], capsys)  # of the data, once all is parsed


HOOK = "lightning.pytorch.callbacks.LambdaCallback"


@pytest.mark.parametrize(
    "given",
    [
        {"class_path": "torch.utils.collect_env.run", "init_args": {"command": "touch RAN"}},
        {"class_path": "vitlab.cli.main", "init_args": {"args": ["data", "synthesize"]}},
        {
            "class_path": "lightning.fabric.utilities.cloud_io._load",
            "init_args": {"path_or_url": "bad.pt", "weights_only": False},
        },
        "torch.utils.collect_env.run",
        "torch.distributed.launcher.elastic_launch",
    ],
)
def test_a_function_is_no_class_though_its_package_is_allowed(given, capsys):
    torch.save({"x": Code()}, "bad.pt")
    callback = {"class_path": HOOK, "init_args": {"on_fit_start": given}}
    file = config({"trainer": {"callbacks": [callback]}})
    message = refused([*FIT, "--config", file], capsys)
    assert "is no class" in message or "torch.distributed.launcher" in message


@pytest.mark.parametrize(
    "content",
    [
        Namespace(a=Namespace(class_path="torch.utils.collect_env.run", init_args=Namespace())),
        Namespace(data={"voc": Namespace(class_path="vitlab.cli.main")}),
        {"a": [{"class_path": "torch.nn.functional.relu"}]},
        {"a": {"class_path": "torch.nn.Linear", "init_args": {"b": main}}},
        {"a": (torch.relu,)},
        {"a": [partial(print)]},
        {"a": lru_cache(print)},
        {"a": np.add},
    ],
)
def test_a_parser_builds_from_no_function_wherever_it_stands(content):
    with pytest.raises(InputError, match="is no class, was not called"):
        config_safety.refuse_functions(content)


def test_classes_and_defaults_of_ours_are_built():
    content = {"a": torch.nn.Linear, "b": Namespace(class_path="torch.nn.Linear"), "c": Path("x")}
    config_safety.refuse_functions({**content, "d": LRSchedule(), "e": torch.nn.ReLU()})
    parser = config_safety.ClassParser(exit_on_error=False)
    parser.add_argument("--hook", type=Callable)
    config_safety.restrict_imports()
    parsed = parser.parse_object({"hook": "torch.nn.functional.relu"})
    with pytest.raises(InputError) as refusal:
        parser.instantiate_classes(parsed)
    assert refusal.value.field == "hook"


def test_a_function_can_be_allowed_by_name(capsys, monkeypatch):
    hook = {"class_path": HOOK, "init_args": {"on_fit_start": "vitlab.cli.main"}}
    words = [*FIT, "--config", config({"trainer": {"callbacks": [hook]}})]
    assert "vitlab.cli.main, which is no class" in refused(words, capsys)
    monkeypatch.setenv("VITLAB_ALLOW", "vitlab.cli.main")
    assert "there is no folder nowhere" in refused(words, capsys)  # of the data, once all is built


def test_a_protocol_that_names_another_class_is_refused(capsys):
    folder = Path("configs/protocols")
    folder.mkdir(parents=True)
    content = {"name": "theirs", "version": 1, "protocol": CALLBACK}
    (folder / "theirs.yaml").write_text(yaml.safe_dump(content))
    from vitlab.evaluation import registry

    with pytest.raises(ValueError, match=r"theirs\.yaml: protocol\.class_path names a_stranger"):
        registry.read_protocol(folder / "theirs.yaml")
    words = [*KNN, "--weights", "x", "--data", "Folder"]
    words += ["--protocol.class_path", "a_stranger.Guest"]
    assert "a_stranger" in refused(words, capsys)


def test_cost_refuses_an_encoder_from_elsewhere(capsys):
    content = {"model": {"objective": {"init_args": {"encoder": CALLBACK}}}}
    error = refused(["cost", "--config", config(content)], capsys)
    assert "class_path names a_stranger.Guest" in error


@pytest.mark.parametrize("key", ["objective", "optimizer", "_class_path"])
def test_a_checkpoint_builds_no_class_from_elsewhere(key):
    hyper = {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
    hyper |= {"objective": {"class_path": "DINO"}}
    hyper |= {key: "a_stranger.Guest" if key == "_class_path" else CALLBACK}
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
def test_a_checkpoint_with_code_is_run_by_no_verb(words, zipped, capsys):
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


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ([*FIT, "--run-dir", "run", "--ckpt_path", "bad.safetensors"], "bad.safetensors"),
        (["cost", "--config", "bad.safetensors"], "bad.safetensors"),
        (["curves", "bad/seed0"], "bad/seed0/measurements.json"),
    ],
    ids=lambda words: words[0],
)
def test_the_message_names_the_file_that_cannot_be_read(words, file, capsys):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    held = io.BytesIO()
    torch.save({"pytorch-lightning_version": "2.6.0", "x": torch.zeros(99)}, held)
    Path(file).write_bytes(held.getvalue())
    assert file in refused(words, capsys)


def test_the_user_can_allow_a_package_of_theirs(capsys, monkeypatch):
    monkeypatch.setenv("VITLAB_ALLOW", "other, my_package")
    Path("my_package.py").write_text(STRANGER.replace(RUNS, "print('imported by choice')\n"))
    with pytest.raises(SystemExit) as stop:
        main([*FIT, "--trainer.callbacks", "my_package.Guest", "--print_config"])
    assert not stop.value.code
    printed = capsys.readouterr().out
    assert "imported by choice" in printed
    assert "class_path: my_package.Guest" in printed


def test_what_is_allowed_must_be_names_of_packages(monkeypatch):
    monkeypatch.setenv("VITLAB_ALLOW", "fine,../other")
    with pytest.raises(ValueError, match=r"VITLAB_ALLOW has '\.\./other'"):
        config_safety.check_config({"class_path": "other.Thing"}, "x.yaml")


BOMB = "a0: &a0 [0]\n" + "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)
)


@pytest.mark.parametrize(
    "text",
    ["[" * 3000 + "]" * 3000, "trainer: &t {callbacks: [*t]}", BOMB],
    ids=["deep", "itself", "bomb"],
)
def test_a_config_nested_or_repeated_without_end_is_refused(text):
    file = config(text)
    with pytest.raises(ValueError, match=r"given\.yaml (is|holds)"):
        config_safety.check_command_line(["--config", file])


@pytest.mark.parametrize("file", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda f: f.stem)
def test_every_config_of_ours_passes(file):
    config_safety.check_config(config_safety.read_yaml(file), file)


NAMES = st.sampled_from(["os.system", "x.Y", "torch.hub.load", "vitlab2.X", "torch_.X"])
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5)


@settings(deadline=None)
@given(
    st.recursive(
        NAMES.map(lambda name: {"class_path": name}),
        lambda inner: (
            st.tuples(st.lists(PLAIN, max_size=2), inner).map(lambda both: [*both[0], both[1]])
            | st.tuples(st.text(max_size=5), inner).map(lambda both: {both[0]: both[1], "z": 1})
        ),
        max_leaves=5,
    )
)
def test_a_class_from_elsewhere_is_found_however_deep_it_lies(content):
    with pytest.raises(ValueError, match="may only build"):
        config_safety.check_config(content, "x.yaml")
