"""What a command line of `vitlab fit` says, with nothing built of it."""

from pathlib import Path

from vitlab.data.datamodule import split_global_batch
from vitlab.training import run_dir
from vitlab.training.cli import ParserCLI


class ParsedConfig(ParserCLI):
    """The settings of a run, checked as far as a machine can that has neither its data nor GPUs."""

    def _set_seed(self) -> None:
        """Draw nothing, and say nothing of it."""

    def before_instantiate_classes(self) -> None:
        """Leave the run's folder as it is."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def after_instantiate_classes(self) -> None:
        """Nothing was built."""

    def check_division(self) -> None:
        """Refuse a batch that does not divide among the devices.

        Raises:
            ValueError: what does.
        """
        data, trainer = self.config.data.init_args, self.config.trainer
        split_global_batch(
            data.global_batch_size, int(trainer.devices) * trainer.num_nodes, data.micro_batch_size
        )

    def place(self, seeds: bool) -> Path:
        """Return the run's folder; of several seeds, the one that holds theirs."""
        configs = [str(path) for path in self.config.get("config") or []]
        seed = self.config.seed_everything
        given = self.config.run_dir
        folder = Path(given) if given else run_dir.default_folder(configs, seed)
        return (folder.parent if seeds and not given else folder).absolute()

    def text(self) -> str:
        """Return all settings as YAML, but for where the run goes and begins."""
        settings = self.config.clone()
        settings.run_dir, settings.ckpt_path = "", None
        return self.parser.dump(settings, skip_link_targets=True, skip_none=False)
