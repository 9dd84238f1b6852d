"""Two real processes on one machine, against one."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from runs import differences

from vitlab.data import VOC2012, ImageNet, SegmentationCrop, SingleCrop, VisionDataModule
from vitlab.encoders import ViT
from vitlab.evaluation import protocols
from vitlab.evaluation.evaluate import evaluate
from vitlab.evaluation.protocol import EvaluationContext, Protocol
from vitlab.evaluation.protocols.hummingbird import Quirks
from vitlab.optim.lr_schedule import WarmupPoly
from vitlab.probes import InferenceConfig
from vitlab.probes.recipe import TrainingRecipe
from vitlab.probes.segmentation_inference import SegmentationInference

ROOT = Path(__file__).parents[3]


def plans(drawn: str) -> list[tuple[Protocol, VisionDataModule]]:
    options = {"num_workers": 0, "max_unreadable": 0}
    imagenet = ImageNet(f"{drawn}/imagenet", **options)
    voc, one = (VOC2012(f"{drawn}/VOCdevkit", **options) for _ in range(2))
    one._samples["val"] = one.samples("val").subset(1)
    quirks = Quirks(void="background", hungarian_matching=True)
    schedule = WarmupPoly(warmup_steps=2)
    recipe = TrainingRecipe(
        schedule, (0.001, 0.05), batch_size=12, iterations=6, select="held out", eval_interval=3
    )
    inference = SegmentationInference(short=64, window=64, stride=32)
    dense = protocols.DenseHeads(
        transform=SegmentationCrop(64, 64), recipe=recipe, inference=inference
    )
    return [
        (protocols.ImageKNN(3, (3,), size=64), imagenet),
        (protocols.DenseKNN((1, 3), size=64), voc),
        (protocols.DenseLogistic(-2, 0, 2, 50, size=64), voc),
        (protocols.FastDense(64), voc),
        (protocols.Hummingbird(64, 50, 2, 5), voc),
        (protocols.Hummingbird(64, 0, 1, 5, quirks=quirks), voc),
        (dense, voc),
        (dense, one),  # a rank has nothing to test
        (protocols.ImageHeads(recipe=recipe, transform=SingleCrop(64), size=64), imagenet),
    ]


def work(rank: int, drawn: str, folder: str, world: int, batch: int) -> None:
    """Evaluate on one of several ranks, twice: the second time from the cache."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store{world}", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    found = []
    for index, (protocol, data) in enumerate(plans(drawn)):
        for _ in range(2):
            places = {"folder": Path(folder) / f"heads{world}-{index}"}
            places["cache"] = Path(folder) / f"cache{world}"
            config = InferenceConfig(torch.device("cpu"), batch)
            context = EvaluationContext(config, **places)
            torch.manual_seed(0)
            outcome = evaluate(ViT("nano", 16, 64), protocol, data, context)
            found.append((outcome.scores, outcome.counts.tensors(), outcome.predictions))
    torch.save(found, f"{folder}/{world}.{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_find_what_one_does(drawn, tmp_path):
    # three training images of 6 in the last step of two ranks: one runs out before the other
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)  # where the new processes find this file
        for world, batch in ((1, 2), (2, 3)):
            mp.spawn(work, (str(drawn), str(tmp_path), world, batch), nprocs=world)
    one = torch.load(tmp_path / "1.0.pt")
    for rank in range(2):
        two = torch.load(tmp_path / f"2.{rank}.pt")
        for (scores, counts, shown), (expected, theirs, drawn_by_one) in zip(two, one, strict=True):
            assert scores == pytest.approx(expected, abs=0.02)
            for name, tensor in theirs.items():
                assert torch.allclose(counts[name].double(), tensor.double(), rtol=0.02, atol=50)
            assert [each.shape for each in shown] == [each.shape for each in drawn_by_one]
    for file in tmp_path.glob("heads1-*/heads.pt"):
        files = file, Path(str(file).replace("heads1", "heads2"))
        states = (torch.load(path, weights_only=True)["heads"]["weights"] for path in files)
        assert not differences(*states)  # trained heads are the same to the bit
