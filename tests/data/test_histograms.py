"""What the data say of classes and scores, against numpy on the files themselves."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitlab.data import ADE20K, VOC2012, Cityscapes, Folder, SegmentationSquare
from vitlab.encoders import Pixels
from vitlab.probes import DenseProbe, InferenceConfig
from vitlab.probes.logistic import LinearClassifier

CPU = InferenceConfig(torch.device("cpu"), batch_size=2)
TRAINED = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def identity(value: int) -> int:
    return value


def reduced(value: int) -> int:
    return (value - 1) % 256


def trained(value: int) -> int:
    return TRAINED.index(value) if value in TRAINED else 255


def without_void(value: int) -> int:
    return {0: 0, 1: 255, 2: 1}[value]


KINDS = {
    "voc": (VOC2012, "VOCdevkit/VOC2012/SegmentationClass/*.png", identity),
    "ade": (ADE20K, "ADEChallengeData2016/annotations/{}/*.png", reduced),
    "cityscapes": (Cityscapes, "gtFine/{}/*/*_labelIds.png", trained),
    "dense_folder": (Folder, "masks/{}/*.png", without_void),
}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def written(request, kind) -> dict[str, dict[str, np.ndarray]]:
    """Masks of varied values, by split and name, already with the classes they mean."""
    root = request.getfixturevalue(kind)
    _, pattern, meaning = KINDS[kind]
    generator = np.random.default_rng(0)
    found: dict[str, dict[str, np.ndarray]] = {"train": {}, "val": {}}
    for split, place in (("train", "training"), ("val", "validation")):
        for path in sorted(root.glob(pattern.format(place if kind == "ade" else split))):
            if kind == "voc":
                lists = root / "VOCdevkit/VOC2012/ImageSets/Segmentation"
                if path.stem not in (lists / f"{split}.txt").read_text().split():
                    continue
            old = np.asarray(Image.open(path))
            # every file has its own mixture of the values that are allowed in it
            values = np.unique(old)
            shares = generator.dirichlet(np.ones(len(values)))
            rough = generator.choice(values, (old.shape[0] // 5, old.shape[1] // 5), p=shares)
            new = np.kron(rough, np.ones((5, 5), dtype=np.uint8))
            mask = Image.fromarray(new)
            if kind == "voc":
                mask.putpalette(list(range(256)) * 3)
            mask.save(path)
            found[split][path.stem] = np.vectorize(meaning, otypes=[np.uint8])(new)
    return found


@pytest.fixture
def data(request, kind, written):
    return KINDS[kind][0](str(request.getfixturevalue(kind)))


def histogram(masks) -> np.ndarray:
    return sum(np.bincount(np.asarray(mask).ravel(), minlength=256) for mask in masks)


@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_have_as_many_pixels_as_in_the_files(data, written, split):
    dataset = data.segmentation_dataset(split, SegmentationSquare(16))
    counted = histogram(dataset[i][1] for i in range(len(dataset)))
    assert len(dataset) == len(written[split]) > 0
    assert np.array_equal(counted, histogram(written[split].values()))
    assert counted.sum() == 30 * 40 * len(dataset)
    assert counted[data.num_classes : 255].sum() == 0
    if data.num_classes > 2:
        assert len(np.flatnonzero(counted[: data.num_classes])) >= 2


class Halves(LinearClassifier):
    """Logits of patches that say one class for the left half and another for the right."""

    def __init__(self, classes: int, left: int, right: int):
        self.classes, self.left, self.right = classes, left, right

    def __call__(self, x):
        columns = int(x.shape[1] ** 0.5)
        side = torch.arange(x.shape[1]) % columns < columns // 2
        one = torch.nn.functional.one_hot(torch.tensor([self.right, self.left]), self.classes)
        return one[side.long()].float().expand(len(x), -1, -1)


def test_the_score_of_a_simple_prediction_is_that_of_its_pixels(data, written):
    """Left half one class, right half another: worked out with sets of pixels, class by class."""
    left, right = 0, min(2, data.num_classes - 1)
    probe = DenseProbe(data.num_classes)
    probe.classifier = Halves(data.num_classes, left, right)
    score = probe.score(Pixels(8), data.segmentation_dataset("val", SegmentationSquare(32)), CPU)
    both, either = np.zeros(data.num_classes), np.zeros(data.num_classes)
    for truth in written["val"].values():
        prediction = np.where(np.arange(truth.shape[1]) < truth.shape[1] // 2, left, right)
        prediction = np.broadcast_to(prediction, truth.shape)
        known = truth != 255
        for one in range(data.num_classes):
            predicted, true = (prediction == one) & known, truth == one
            both[one] += (predicted & true).sum()
            either[one] += (predicted | true).sum()
    with np.errstate(invalid="ignore"):
        iou = 100 * both / either
    assert score.iou.numpy() == pytest.approx(iou, nan_ok=True)
    assert score.miou == pytest.approx(np.nanmean(iou))
    assert 0 < score.miou < 100


def test_real_masks_have_the_histogram_of_their_files(real):
    """Three sets in their own layouts."""
    root = real("mini_layouts")
    for kind, place, pattern, meaning in [
        (ADE20K, "", "ADEChallengeData2016/annotations/validation/*.png", reduced),
        (VOC2012, "", "VOCdevkit/VOC2012/SegmentationClass/*.png", identity),
        (Cityscapes, "cityscapes_256x128", "gtFine/val/*/*_labelIds.png", trained),
    ]:
        data = kind(str(root / place))
        dataset = data.segmentation_dataset("val", SegmentationSquare(16))
        wanted = {data.samples("val").mask(i).rpartition("/")[2] for i in range(len(dataset))}
        files = [path for path in (root / place).glob(pattern) if path.name in wanted]
        raw = histogram(Image.open(path) for path in files)
        expected = np.zeros(256, dtype=np.int64)
        for value in np.flatnonzero(raw):
            expected[meaning(int(value))] += raw[value]
        assert np.array_equal(histogram(dataset[i][1] for i in range(len(dataset))), expected)
