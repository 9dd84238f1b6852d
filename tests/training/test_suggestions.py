"""Unknown keys are answered with the nearest one."""

import pytest
from runs import CONFIGS

from vitlab.errors import InputError
from vitlab.training.cli import FitCLI

NEAREST = {
    "model.optimizer.rate": "lr",
    "model.optimizer.learning_rate": "lr",
    "model.optimizer.weight_decai": "weight_decay",
    "model.optimizer.lr_schedule.shap": "shape",
    "data.batch_size": "global_batch_size",
    "data.workers": "num_workers",
    "probing.every": "every_n_epochs",
    "trainer.max_epoch": "max_epochs",
}


@pytest.mark.parametrize("key", NEAREST)
def test_the_nearest_key_is_named(key, tmp_path):
    section, _, name = key.rpartition(".")
    content = f"{name}: 1"
    for part in reversed(section.split(".")):
        content = f"{part}: {{{content}}}"
    (tmp_path / "given.yaml").write_text(content)
    for words in ([f"--{key}", "1"], [f"--{key}=1"], ["--config", str(tmp_path / "given.yaml")]):
        with pytest.raises(InputError, match=f"use {section}.{NEAREST[key]}$") as refused:
            FitCLI(["--config", f"{CONFIGS}/dino.yaml", *words])
        assert refused.value.field == key
