import io
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from colors import COLORS, Known, folder, write_pair
from runs import differences

from vitlab.data import Folder, SegmentationCrop
from vitlab.encoders import Pixels
from vitlab.evaluation.evaluate import evaluate
from vitlab.probes import head_training
from vitlab.probes.layer_selection import FeatureSpec
from vitlab.probes.segmentation_inference import SegmentationInference


class OneHot(Known):
    """Knows the color of each patch: its features are the classes."""

    embed_dim = len(COLORS)

    def features(self, patches: torch.Tensor) -> torch.Tensor:
        known = torch.tensor(COLORS / 255, dtype=torch.float32)
        known = (known - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        nearest = (patches[..., None, :] - known).square().sum(-1).argmin(-1)
        return F.one_hot(nearest, self.embed_dim).float()


def halves(root: Path, blank: int = 0) -> Path:
    """Draw two colors side by side, which are classes; void where an enlarged map is in between.

    The first training images have no label.
    """
    for split, count in (("train", 20), ("val", 6)):
        for index in range(count):
            classes = np.full((32, 48), index % 4, np.uint8)
            classes[:, 24:] = (index // 4 + index + 1) % 4
            mask = classes.copy()
            mask[:, slice(None) if split == "train" and index < blank else slice(20, 28)] = 255
            write_pair(root, split, index, classes, mask)
    folder(root, ["red", "green", "blue", "yellow"])
    return root


@pytest.fixture
def data(tmp_path) -> Folder:
    return folder(halves(tmp_path / "halves"))


@pytest.fixture
def augmented(dense):
    """Small heads with random crops."""
    return lambda **recipe: dense(recipe, transform=SegmentationCrop(32, 32))


@pytest.mark.parametrize(
    "inference",
    [
        SegmentationInference(short=32, window=32, stride=24, average="probabilities"),
        SegmentationInference(short=64, window=32, stride=16, ratios=(1.0, 2.0), flip=True),
    ],
    ids=["probabilities", "scales"],
)
def test_colors_that_are_classes_are_found_to_the_pixel(data, dense, context, inference):
    for changes in ({}, {"precision": "bf16"}):
        test = dense({"iterations": 30}, inference=inference, **changes)
        outcome = evaluate(OneHot(), test, data, context())
        assert outcome.headline == "miou"
        assert outcome.scores["miou"] == outcome.counts.value == 100.0
    assert [tuple(each.shape) for each in outcome.predictions] == [(32, 48)] * 4
    assert set(outcome.predictions[1].unique().tolist()) == {1, 2}


def test_first_test_images_split_and_size_of_scores(data, dense, context):
    few = dense(max_val_images=3, train_split="train").run(OneHot(), data, context())
    assert (len(few.counts), few.train) == (3, "train")
    small = SegmentationInference(short=32, square=True, pixels=20)
    test = dense(inference=small, features=FeatureSpec(fit="pad"), max_val_images=30)
    most = test.run(Pixels(8), data, context())
    assert (len(most.counts), most.train) == (6, "")
    assert [tuple(each.shape) for each in most.predictions] == [(20, 20)] * 4
    assert int(most.counts.truth.sum()) <= 6 * 20 * 20


def state(folder: Path) -> dict:
    """The state at the end of training."""
    return torch.load(folder / "heads.pt", weights_only=True)


def test_the_seed_of_the_evaluation_decides_and_no_other(data, augmented, vit, context, tmp_path):
    """Nor do workers, batches and the global generator."""
    ends = []
    for place, (seed, batch) in enumerate(((0, 2), (0, 3), (1, 2))):
        torch.manual_seed(place)
        work = context(batch, seed=seed, folder=tmp_path / str(place))
        augmented(iterations=3).run(vit, folder(data.root, seed=place), work)
        ends.append(state(tmp_path / str(place))["heads"]["weights"])
    assert not differences(ends[0], ends[1])
    assert differences(ends[0], ends[2])


def test_a_killed_evaluation_goes_on_to_the_bit(
    data, augmented, vit, context, tmp_path, monkeypatch
):
    monkeypatch.setattr(head_training, "SECONDS", 0.0)
    test, calls, read = augmented(iterations=8, select="val", eval_interval=4), [], FeatureSpec.read
    whole = test.run(vit, data, context(folder=tmp_path / "whole"))

    def kill(*given):
        calls.append(1)
        if len(calls) == 16:  # four passes in training, then the first evaluation
            raise KeyboardInterrupt
        return read(*given)

    monkeypatch.setattr(FeatureSpec, "read", kill)
    with pytest.raises(KeyboardInterrupt):
        test.run(vit, data, context(folder=tmp_path / "killed"))
    resumed = test.run(vit, data, context(folder=tmp_path / "killed"))
    assert resumed.tried == whole.tried
    assert len(calls) == 16 + 1 + 2 * 6 + 4  # the last step, two tests, and pictures
    first = state(tmp_path / "whole")
    assert not differences(
        first["heads"]["weights"], state(tmp_path / "killed")["heads"]["weights"]
    )
    # a state of other weights is left alone
    vit.norm.bias.data += 1
    test.run(vit, data, context(folder=tmp_path / "whole"))
    assert state(tmp_path / "whole")["key"] != first["key"]


def test_a_damaged_state_is_named_and_not_read(data, dense, context, tmp_path):
    work = context(folder=tmp_path)
    first = dense().run(OneHot(), data, work)
    file = tmp_path / head_training.FILE
    whole, other = file.read_bytes(), io.BytesIO()
    torch.save({"step": 3}, other)
    for content in (b"", whole[: len(whole) // 2], other.getvalue()):
        file.write_bytes(content)
        with pytest.warns(UserWarning, match=r"heads\.pt is damaged"):
            again = dense().run(OneHot(), data, work)
        assert again.tried == first.tried
        assert state(tmp_path)["step"] == 4


def test_batches_without_any_label_are_survived(dense, context, tmp_path: Path):
    data = folder(halves(tmp_path / "void", blank=15))
    test = dense({"batch_size": 1, "iterations": 12})
    assert np.isfinite(test.run(OneHot(), data, context()).scores["miou"])
