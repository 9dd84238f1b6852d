import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vitlab.data import VOC2012
from vitlab.data.datasets.voc import palette
from vitlab.evaluation.tensorboard import write_events
from vitlab.visualization import masks
from vitlab.visualization.grid import HEIGHT, encode_png
from vitlab.visualization.masks import compare_masks

WIDEST = 2 * HEIGHT
RIGHT, WRONG, VOID = (
    tuple(round(255 * value) for value in color) for color in (masks.RIGHT, masks.WRONG, masks.VOID)
)


def sheet(images, truths, predictions, classes):
    return compare_masks(images, truths, predictions, classes).render()


def colors(picture):
    return {tuple(each) for each in picture.flatten(1).T.tolist()}


def example(size, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (3, *size), generator=generator).to(torch.uint8)
    truth = torch.zeros(size, dtype=torch.uint8)
    truth[: size[0] // 2] = classes - 1
    return image, truth


def test_right_wrong_and_void_have_their_colors_and_shares():
    image, truth = example((100, 100))
    truth[:, :25] = 255
    prediction = torch.zeros_like(truth)

    # the legend repeats the colors in small squares: compare two sheets in the number of pixels
    def count(color, predicted):
        made = sheet([image], [truth], [predicted], ["a", "b", "c"])
        return int((made == torch.tensor(color, dtype=torch.uint8)[:, None, None]).all(0).sum())

    perfect = torch.where(truth == 255, 0, truth)
    area = HEIGHT * HEIGHT
    assert count(RIGHT, perfect) - count(RIGHT, prediction) == area * 3 // 8
    assert count(WRONG, prediction) - count(WRONG, perfect) == area * 3 // 8
    assert count(VOID, perfect) == count(VOID, prediction) > 2 * area // 4
    assert tuple(palette()[255]) == VOID


def test_images_of_any_shape_keep_their_aspect():
    sizes = [(300, 200), (50, 400), (1, 1), (7, 900)]
    examples = [example(size) for size in sizes]
    images, truths = zip(*examples, strict=True)
    made = sheet(images, truths, truths, ["a", "b", "c"])
    assert made.dtype == torch.uint8
    assert made.shape[0] == 3
    assert made.shape[2] < 4 * WIDEST + 100
    assert WRONG in colors(made)  # in the legend alone: the predictions are right
    heights = [HEIGHT, 50 * WIDEST // 400, HEIGHT, round(7 * WIDEST / 900)]
    assert sum(heights) < made.shape[1] < sum(heights) + 200


def test_the_legend_names_what_is_shown_and_no_more_than_fits():
    image, _ = example((64, 64))
    masks = torch.arange(150).repeat_interleave(64 * 64 // 150 + 1)[: 64 * 64].view(64, 64)
    masks = masks.to(torch.uint8)
    names = [f"class {index}" for index in range(150)]
    many = sheet([image], [masks], [masks], names)
    few = sheet([image], [torch.zeros_like(masks)], [torch.zeros_like(masks)], names)
    assert few.shape[1] < many.shape[1] < few.shape[1] + 400


def test_masks_of_drawn_data_make_a_sheet_and_a_file(drawn, tmp_path):
    data = VOC2012(root=str(drawn / "VOCdevkit"))
    samples = data.samples("val")
    images, truths = [], []
    for index in range(len(samples)):
        with samples.files.open(samples.image(index)) as file, Image.open(file) as image:
            pixels = np.array(image.convert("RGB"))
        with samples.files.open(samples.mask(index)) as file, Image.open(file) as mask:
            truths.append(torch.from_numpy(np.array(mask)).to(torch.uint8))
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
    predictions = [torch.zeros_like(truth) for truth in truths]
    made = sheet(images, truths, predictions, data.classes)
    (tmp_path / "pictures.png").write_bytes(encode_png(made))
    with Image.open(tmp_path / "pictures.png") as file:
        assert torch.equal(torch.from_numpy(np.array(file)).permute(2, 0, 1), made)


def test_a_mask_of_another_size_is_our_mistake():
    image, truth = example((20, 30))
    with pytest.raises(AssertionError, match="its image's size"):
        sheet([image], [truth], [truth[:10]], ["a", "b", "c"])


def test_tensorboard_shows_scores_classes_and_the_sheet(results):
    image, truth = example((20, 30))
    result = results.result(results.counts())
    for _ in range(2):  # the second replaces the first
        write_events(results.folder, result, sheet([image], [truth], [truth], ["a", "b", "c"]))
    (file,) = results.folder.iterdir()
    events = EventAccumulator(str(file)).Reload()
    tags = events.Tags()
    place = "VOC2012/dinov2-linear"
    classes = {f"{place}/iou/class {index}" for index in range(5)}
    assert set(tags["scalars"]) == {f"{place}/mIoU", f"{place}/accuracy"} | classes
    assert events.Scalars(f"{place}/mIoU")[0].value == pytest.approx(result.value)
    assert tags["images"] == [f"{place}/predictions"]
    assert tags["tensors"] == [f"{place}/text_summary"]
