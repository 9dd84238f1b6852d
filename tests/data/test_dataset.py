"""Datasets of the probes, and of training with masks of objects."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import check_wording, refused

from vitlab.data import (
    ADE20K,
    VOC2012,
    AugmentedCrop,
    CenterCrop,
    Cityscapes,
    DataError,
    Folder,
    ImageNet,
    SegmentationSquare,
    SingleCrop,
    UnreadableImage,
    read_image,
    read_mask,
)
from vitlab.data.check import check
from vitlab.data.foreground import decode_foreground
from vitlab.data.transforms import SegmentationCrop

SQUARE = SegmentationSquare(16)
KINDS = [
    ("voc", VOC2012, {0: 0, 15: 15, 20: 20, 255: 255}, 21),
    ("ade", ADE20K, {0: 255, 1: 0, 2: 1, 150: 149}, 255),
    ("cityscapes", Cityscapes, {0: 255, 7: 0, 8: 1, 11: 2, 29: 255, 33: 18, 255: 255}, 34),
    ("dense_folder", Folder, {0: 0, 1: 255, 2: 1}, 3),
]


def test_labeled_images_are_center_crops_with_their_class_as_many_of_each(imagenet, ade):
    data = ImageNet(str(imagenet))
    dataset = data.classification_dataset("val", 32)
    assert [dataset[i][1] for i in range(len(dataset))] == [0, 0, 1, 1, 2, 2]
    image = read_image(imagenet / "val/n02102040/n02102040_1.JPEG")
    assert torch.equal(dataset[3][0], CenterCrop(32)(image)[0][0])
    picked = data.classification_dataset("train", 16, limit=6)
    assert sorted(picked[i][1] for i in range(6)) == [0, 0, 1, 1, 2, 2]
    again = ImageNet(str(imagenet), seed=5).classification_dataset("train", 16, limit=6)
    assert (picked.samples.images == again.samples.images).all()
    four = data.classification_dataset("train", 16, limit=4)
    assert np.bincount(four.labels).tolist() == [2, 1, 1]
    assert len(data.classification_dataset("train", 16, limit=99)) == 12
    samples = ADE20K(str(ade)).segmentation_dataset("train", SQUARE, limit=1).samples
    assert len(samples) == 1
    assert Path(samples.mask(0)).stem == Path(samples.image(0)).stem
    with refused("limit", DataError):
        ADE20K(str(ade)).segmentation_dataset("train", SQUARE, limit=-1)


@pytest.mark.parametrize(("layout", "kind", "expected", "wrong"), KINDS)
def test_mask_values_become_train_ids_once(request, stripe, layout, kind, expected, wrong):
    dataset = kind(str(request.getfixturevalue(layout))).segmentation_dataset("val", SQUARE)
    image, mask = dataset[0]
    assert image.shape == (3, 16, 16)
    assert mask.shape == (30, 40)  # masks keep their own size
    assert image.dtype == mask.dtype == torch.uint8
    path = Path(dataset.samples.files.where(dataset.samples.mask(0)))
    assert dict(zip(read_mask(path).flat, mask.numpy().flat, strict=True)) == expected
    for values, size in (([0, wrong], (40, 30)), ([0], (40, 31))):
        stripe(path, values, size=size)
        with refused("data.root", DataError):
            dataset[0]


def test_crops_with_masks_depend_on_the_epoch(ade):
    dataset = ADE20K(str(ade)).segmentation_dataset("train", SegmentationCrop(16, 24))
    crops = [dataset[place][0] for place in (0, (0, 0), (1, 0), (2, 0))]
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[1], crops[2])
    assert not torch.equal(crops[2], crops[3])


def test_leaks_and_datasets_without_labels_or_masks_are_refused(voc, imagenet):
    data = VOC2012(str(voc), train_split="trainval")
    with refused("data.train_split", DataError):
        data.segmentation_dataset("trainval", SQUARE)
    with refused("data.root", DataError):
        data.classification_dataset("val", 16)
    with refused("data.root", DataError):
        ImageNet(str(imagenet)).segmentation_dataset("val", SQUARE)


@pytest.fixture(params=[("png", 1)])
def folder(tmp_path, request, box):
    """Boxes of a color on black in two classes; of each class, the image 2 has no mask."""
    ending, zoom = request.param
    for number, name in enumerate(("red", "blue")):
        for split, indices in (("train", range(4)), ("val", [4])):
            for index in indices:
                mask = box(10 * number + index).repeat(zoom, 0).repeat(zoom, 1) * np.uint8(255)
                image = np.zeros((*mask.shape, 3), np.uint8)
                image[..., 2 * number] = mask
                for kind, made in (("", image), ("masks/", mask)):
                    path = tmp_path / f"{kind}{split}/{name}/{index}.{'png' if kind else ending}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if not kind or index not in (2, 4):
                        Image.fromarray(made).save(path, quality=95)
    return tmp_path


# of JPEG, large images are decoded at a part of their size
@pytest.mark.parametrize("folder", [("png", 1), ("jpg", 8)], indirect=True)
def test_batches_hold_masks_that_fit_their_crops(folder):
    transform = AugmentedCrop(32, (0.5, 1.0), auto_augment="")
    data = Folder(str(folder), global_batch_size=8, num_workers=0, transform=transform)
    assert next(iter(data.train_dataloader())).masks is None
    assert data.use_foreground_masks() == 6
    assert data.splits == ("train", "val")
    batch = next(iter(data.train_dataloader()))
    objects = batch.views[0][0].amax(1) >= 128  # with the middle of their soft edge
    assert batch.masks.shape == (8, 32, 32)
    order = next(iter(data.train_dataloader().batch_sampler))
    stems = [Path(data.samples("train").image(index)).stem for _, index in order]
    known = torch.tensor([stem != "2" for stem in stems])
    assert batch.masks[~known].all()
    wrong = (batch.masks[known] != objects[known]).float().mean()
    assert wrong <= (0.02 if list(folder.glob("train/red/*.jpg")) else 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_whatever_is_not_zero_is_the_object(tmp_path, mode, box):
    mask = box(1)
    values = {
        "1": mask,
        "L": (mask * 7).astype(np.uint8),
        "P": (mask * 3).astype(np.uint8),
        "RGB": mask[..., None] * np.array([0, 1, 0], np.uint8),  # 256 as ImageNet-S writes it
        "I;16": (mask * 256).astype(np.uint16),
    }[mode]
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([0, 0, 0] * 256)
    assert image.mode == mode
    image.save(tmp_path / "mask.png")
    content = (tmp_path / "mask.png").read_bytes()
    assert np.array_equal(decode_foreground(content, "mask"), mask)
    for damaged in (b"", content[:40]):
        with pytest.raises(UnreadableImage):
            decode_foreground(damaged, "mask")


def test_bad_masks_of_objects_are_named_and_seen_by_the_check(folder):
    report = check(folder)
    assert not report.errors
    notes = [finding.text for finding in report.findings]
    assert "6 images of train have a mask of their object" in notes
    Image.new("RGBA", (4, 4)).save(folder / "mask.png")
    with refused("data.root", DataError):
        decode_foreground((folder / "mask.png").read_bytes(), "mask")
    with refused("data.transform"):
        Folder(str(folder), transform=SingleCrop(32)).use_foreground_masks()
    data = Folder(str(folder), global_batch_size=8, num_workers=0, transform=AugmentedCrop(32))
    data.use_foreground_masks()
    Image.new("L", (10, 10)).save(folder / "masks/train/red/0.png")
    with refused("data.root", DataError):
        next(iter(data.train_dataloader()))
    Image.new("L", (100, 80)).save(folder / "masks/train/red/1.png")
    Image.new("L", (100, 80), 1).save(folder / "masks/train/red/9.png")
    (folder / "masks/train/blue/0.png").write_bytes(b"")
    check_wording("\n".join(each.text for each in check(folder).findings if each.text not in notes))
    for file in (folder / "masks").rglob("*.png"):
        file.unlink()
    with refused("data.root", DataError):
        data.use_foreground_masks()
