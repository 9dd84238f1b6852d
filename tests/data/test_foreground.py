"""Masks beside class folders: they go where their images go."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitlab.data import AugmentedCrop, DataError, Folder, ImageNet, SingleCrop
from vitlab.data.check import check
from vitlab.data.decode import UnreadableImage
from vitlab.data.foreground import decode_foreground, mask_name
from vitlab.data.synthetic import WNIDS

COLORS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


def scene(seed: int, height: int = 80, width: int = 100) -> np.ndarray:
    """True on a box of random place and size."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), bool)
    top, left = rng.integers(5, height // 2), rng.integers(5, width // 2)
    mask[top : top + rng.integers(25, 35), left : left + rng.integers(25, 45)] = True
    return mask


@pytest.fixture
def folder(tmp_path):
    """Boxes of a color on black in two classes; of each class, the image 2 has no mask."""
    for number, (name, color) in enumerate(COLORS.items()):
        for split in ("train", "val"):
            (tmp_path / split / name).mkdir(parents=True)
        (tmp_path / "masks/train" / name).mkdir(parents=True)
        for index in range(4):
            mask = scene(10 * number + index)
            image = Image.fromarray((mask[..., None] * np.array(color)).astype(np.uint8))
            image.save(tmp_path / f"train/{name}/{index}.png")
            if index != 2:
                values = Image.fromarray((mask * 255).astype(np.uint8))
                values.save(tmp_path / f"masks/train/{name}/{index}.png")
        image.save(tmp_path / f"val/{name}/0.png")
    return tmp_path


def batches(root, **views):
    data = Folder(
        str(root), global_batch_size=8, num_workers=0, transform=AugmentedCrop(32, **views)
    )
    data.use_foreground_masks()
    return data, next(iter(data.train_dataloader()))


def object_of(views):
    """The object in images of one color on black, with the middle of its soft edge."""
    return views[0].amax(1) >= 128


@pytest.mark.parametrize(
    "augment", ["", "rand-m9-n2-p1", "rand-m9-n3-mstd0.5-inc1", "rand-m10-n2-mstd2"]
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_a_mask_is_moved_as_its_image_by_every_augmentation(augment, interpolation):
    """Of an image that is its mask in gray, with operations of color left out, to the bit."""
    views = AugmentedCrop(32, auto_augment=augment, interpolation=interpolation)
    views._augment = views._move  # what is compared is where pixels go
    moved = 0
    for seed in range(60):
        mask = scene(seed)
        image = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
        crop = views(image, (seed, 1))[0][0, 0]
        shown = views.crop_foreground(mask, (seed, 1))
        assert torch.equal(shown, crop >= 128)
        moved += int(shown.any() and not shown.all())
    assert moved > 30


@pytest.mark.parametrize("operation", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_every_operation_that_moves_an_image_moves_its_mask(operation):
    """With the augmentation whole: the brighter part of the image is where the mask is."""
    views = AugmentedCrop(64, area=(1.0, 1.0), auto_augment="rand-m9-n1-p1")
    for made in (views._augment, views._move):
        made.ops = [each for each in made.ops if each.name.startswith(operation)]
        assert len(made.ops) == 1
    for seed in range(20):
        mask = scene(seed, 80, 80)
        image = np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
        image[..., 1:] = 0  # what is moved in is gray: red 124, below the middle
        crop = views(image, seed)[0][0, 0]
        shown = views.crop_foreground(mask, seed)
        assert (shown != (crop >= 190)).float().mean() < 0.03
        assert shown.any()


def test_operations_of_color_leave_the_mask_alone():
    views = AugmentedCrop(32, area=(1.0, 1.0), flip=0.0, auto_augment="rand-m9-n2-p1")
    moves = {"Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"}
    views._move.ops = [each for each in views._move.ops if each.name not in moves]
    assert len(views._move.ops) == 10
    still = AugmentedCrop(32, area=(1.0, 1.0), flip=0.0, auto_augment="")
    mask = scene(0, 80, 80)
    assert torch.equal(views.crop_foreground(mask, 1), still.crop_foreground(mask, 1))


def test_batches_hold_masks_that_fit_their_crops(folder):
    data, batch = batches(folder, auto_augment="")
    objects = object_of(batch.views[0])
    known = ~batch.masks.all(2).all(1)
    assert batch.masks.shape == (8, 32, 32)
    assert torch.equal(batch.masks[known], objects[known])
    order = next(iter(data.train_dataloader().batch_sampler))
    missing = [str(data.samples("train").image(index)).endswith("2.png") for _, index in order]
    # those without a mask; a crop may lie on its object as well
    assert batch.masks[torch.tensor(missing)].all()
    assert known.sum() >= 4
    assert data.use_foreground_masks() == 6


def test_nobody_asks_and_nobody_reads_them(folder):
    data = Folder(str(folder), global_batch_size=8, num_workers=0, transform=AugmentedCrop(32))
    assert next(iter(data.train_dataloader())).masks is None
    assert data.splits == ("train", "val")


def test_a_mask_of_a_reduced_image_is_reduced_too(folder):
    """A JPEG eight times as large is decoded at a part of its size."""
    mask = np.kron(scene(3), np.ones((8, 8), bool))
    for index in range(4):
        for name, color in COLORS.items():
            for place in (f"train/{name}", f"masks/train/{name}"):
                (folder / place / f"{index}.png").unlink(missing_ok=True)
            image = Image.fromarray((mask[..., None] * np.array(color)).astype(np.uint8))
            image.save(folder / f"train/{name}/{index}.jpg", quality=95)
            Image.fromarray(mask).save(folder / f"masks/train/{name}/{index}.png")
    _, batch = batches(folder, auto_augment="", area=(0.5, 1.0))
    assert batch.views[0].shape[-1] == 32
    assert (batch.masks != object_of(batch.views[0])).float().mean() < 0.02


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "I;16"])
def test_whatever_is_not_zero_is_the_object(tmp_path, mode):
    mask = scene(1)
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
    assert np.array_equal(decode_foreground((tmp_path / "mask.png").read_bytes(), "mask"), mask)


def test_an_alpha_channel_and_a_damaged_mask_are_refused(tmp_path):
    Image.new("RGBA", (4, 4)).save(tmp_path / "mask.png")
    content = (tmp_path / "mask.png").read_bytes()
    with pytest.raises(DataError, match="of mode RGBA"):
        decode_foreground(content, "mask")
    for damaged in (b"", content[:40]):
        with pytest.raises(UnreadableImage):
            decode_foreground(damaged, "mask")


def test_bad_masks_are_named(folder):
    small = folder / "masks/train/red/0.png"
    Image.new("L", (10, 10)).save(small)
    with pytest.raises(DataError, match=r"red/0.png is 10 x 10 .*of another size or shape"):
        batches(folder)
    with pytest.raises(ValueError, match="SingleCrop cannot crop masks"):
        Folder(str(folder), transform=SingleCrop(32)).use_foreground_masks()
    for file in (folder / "masks").rglob("*.png"):
        file.unlink()
    with pytest.raises(DataError, match=r"none of the 8 training images has a mask.*derived"):
        Folder(str(folder), transform=AugmentedCrop(32)).use_foreground_masks()


def test_check_sees_masks_that_do_not_fit(folder):
    report = check(folder)
    assert not report.errors
    notes = [finding.text for finding in report.findings]
    assert "6 images of train have a mask of their object" in notes
    Image.new("L", (10, 10)).save(folder / "masks/train/red/0.png")
    Image.new("L", (100, 80)).save(folder / "masks/train/red/1.png")
    Image.new("L", (100, 80), 1).save(folder / "masks/train/red/9.png")
    (folder / "masks/train/blue/0.png").write_bytes(b"")
    text = "\n".join(finding.text for finding in check(folder).findings)
    assert "1 masks of train have no image: masks/train/red/9.png" in text
    assert "1 masks of train are of another size than their image: masks/train/red/0.png" in text
    assert "1 masks of train show no object: masks/train/red/1.png" in text
    assert "masks/train/blue/0.png" in text


def test_imagenet_has_them_in_the_same_place(drawn, tmp_path):
    root = tmp_path / "imagenet"
    root.mkdir()
    for name in ("train", "val"):
        (root / name).symlink_to(drawn / "imagenet" / name)
    image = next((root / "train" / WNIDS[0]).iterdir())
    place = root / mask_name(f"train/{WNIDS[0]}/{image.name}")
    place.parent.mkdir(parents=True)
    with Image.open(image) as opened:
        Image.new("L", opened.size, 1).save(place)
    assert ImageNet(str(root), transform=AugmentedCrop(32)).use_foreground_masks() == 1
