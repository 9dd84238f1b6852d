#!/usr/bin/env bash
# The product is the installed package: from the wheel, in an empty folder, without the clone.
# PYTHON has vitlab's dependencies; the wheel is unpacked before its other packages.
set -euo pipefail
clone=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m uv build --quiet --wheel --out-dir "$folder" "$clone"
"$PYTHON" -m uv pip install --quiet --no-deps --target "$folder/site" "$folder"/*.whl
mkdir "$folder/empty"
cd "$folder/empty"
export PYTHONPATH="$folder/site" OMP_NUM_THREADS=1
vitlab() { "$PYTHON" -m vitlab "$@"; }
vitlab --version | grep " in $folder/site/vitlab\$"  # and no commit
vitlab configs | grep '^dino_entmax '
vitlab evaluate --list | grep 'knn'
vitlab data synthesize --root data/synthetic $(printf -- '--amounts.%s ' imagenet_train=4 imagenet_val=1 \
  voc_train=4 voc_val=2 ade_train=1 ade_val=1 cityscapes_train=3 cityscapes_val=1)
vitlab fit --config dino_entmax --config demo --run-dir run --synthetic.root '' --trainer.limit_train_batches 2 \
  --trainer.max_epochs 1 --model.optimizer.warmup_epochs 0 --probing.every_n_epochs 0 --probing.baselines false
vitlab evaluate --weights run/last.ckpt --which teacher --protocol knn --data.root data/synthetic/imagenet --dry-run
