"""Words of other programs, and of earlier versions, for options and keys of ours."""

import re
from collections.abc import Iterable

# names of ours, of which the first counts that exists where a word is given, and words for them;
# names with dots are keys of `vitlab fit`
WORDS = """
model.optimizer.lr: rate learning_rate base_lr lr
model.optimizer.min_lr: final_rate final_lr end_lr
model.optimizer.weight_decay: decay wd weight_decay
model.optimizer.final_weight_decay: final_decay
model.optimizer.clip_grad_norm: clip clip_grad max_norm gradient_clip_val
model.optimizer.warmup_epochs: warmup lr_warmup_epochs warmup_epochs
model.optimizer.lr_schedule: schedule scheduler course
model.optimizer.param_groups: rules
model.optimizer name: optimizer opt
name: kind type
trainer.max_epochs: epochs num_epochs max_epochs
trainer.devices devices gpus_per_node: gpus gpu num_gpus n_gpus devices
trainer.num_nodes num_nodes: nodes nnodes num_nodes
trainer.accelerator accelerator device: device accelerator
trainer.precision: precision amp fp16 bf16
trainer.logger: logger wandb mlflow tensorboard
data.global_batch_size batch_size: batch bs train_batch_size batch_size global_batch_size
data.micro_batch_size: device_batch per_device_batch_size accumulate_grad_batches micro_batch_size
data.num_workers num_workers: workers n_workers num_worker num_workers
data.root root: dataset data_dir data_path data_root path dir masks root
data.transform: views transforms augmentation transform
data.train_split: train
validation val_split: val scoring
model.objective.encoder: arch encoder backbone
model.objective: objective loss method
ckpt_path weights config: resume ckpt ckpt_path resume_from_checkpoint checkpoint_path
checkpoint weights config: checkpoint checkpoints saving
weights config: model pretrained source input
run_dir out: run out output output_dir out_dir save_dir log_dir json
seed_everything seed: seed random_seed
collapse_monitor: health monitor
probing: probes evaluation eval
size img_size: image image_size input_size resolution
overwrite: force replace
dry_run: check plan
which: branch student teacher
format: form fmt
labels: names name
world_size: world
head: projection
out_dim: prototypes
hidden_dim: hidden
bottleneck_dim: bottleneck
mixup: mixing
random_erasing: erasing
label_smoothing: smoothing
ema_decay: average
classifier: start
patch_size: patch
num_registers: registers
cls_specialization: specialize
pos_interpolation: positions
"""


def _plain_name(name: str) -> str:
    return re.sub("[-_]", "", name).lower()


def _synonyms() -> dict[str, list[str]]:
    """Return our names by each word of the table."""
    found: dict[str, list[str]] = {}
    for line in WORDS.strip().splitlines():
        names, _, words = line.partition(":")
        for word in words.split():
            found.setdefault(_plain_name(word), []).extend(names.split())
    return found


def meant(word: str, known: Iterable[str]) -> str:
    """Return the known name that a word of another program means, or "".

    Args:
        word: with or without dashes.
        known: names as they are spelled here; keys with dots by their last part as well.
    """
    spelled = {_plain_name(each): each for each in known}
    for name in (word, *_synonyms().get(_plain_name(word), [])):
        for each in (name, name.rpartition(".")[2]):
            if _plain_name(each) in spelled:
                return spelled[_plain_name(each)]
    return ""


def keys_elsewhere() -> list[str]:
    """Return the keys of `vitlab fit` in the table, all with dots."""
    return [name for names in _synonyms().values() for name in names if "." in name]
