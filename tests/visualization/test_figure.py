"""`vitlab figure`, as people type it."""

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from vitlab.analysis.example_pictures import example_pictures, middle
from vitlab.cli import main
from vitlab.commands.figure import run
from vitlab.encoders import ViT, save
from vitlab.errors import InputError
from vitlab.visualization.colors import categorical_colors


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Two encoders, of different width, patch, heads and options."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    save(ViT("nano", 8, 32), folder / "plain")
    save(ViT("Ti", 16, 32, normalizer="entmax15", num_registers=2), folder / "sparse")
    return [str(folder / "plain"), str(folder / "sparse")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    drawn = np.random.default_rng(0)
    for name, shape in {"wide": (40, 90, 3), "tall.small": (60, 21, 3)}.items():
        Image.fromarray(drawn.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def figure(weights, photos, tmp_path, capsys):
    """Run the command on all photographs, or the first; returns the size of the figure."""

    def run(*words, out="figure.png", images=(), models=weights):
        shown = [str(photos)] if not images else [str(photos / name) for name in images]
        kind, *options = words
        options = [*options, "--size", "48", "--device", "cpu", "--out", str(tmp_path / out)]
        main(["figure", kind, *shown, "--weights", *models, *options])
        capsys.readouterr()
        return (tmp_path / out).read_bytes()

    return run


@pytest.mark.parametrize(
    "words",
    [
        "pca --foreground --basis each",
        "attention --at 3,4 20,30",
        "attention --block 0 -1 --head mean",
        "attention --head 2",
        "parts --parts 3",
        "all --parts 2",
    ],
)
def test_every_kind_is_drawn_for_models_that_differ_in_everything(figure, words):
    assert figure(*words.split()).startswith(b"\x89PNG")


def test_several_places_of_one_photograph_are_rows(figure, tmp_path):
    heights = []
    for places in (["1,1"], ["1,1", "5,5", "80,30"]):
        figure("similarity", "--at", *places, "--overwrite", images=["wide.png"])
        with Image.open(tmp_path / "figure.png") as file:
            heights.append(file.size[1])
    assert heights[1] > 2 * heights[0]


def test_the_same_words_give_the_same_bytes(figure):
    words = ["parts", "--parts", "2"]
    first = figure(*words, out="figure.svg", images=["wide.png"])
    assert figure(*words, "--overwrite", out="figure.svg", images=["wide.png"]) == first


def test_masks_are_learned_from_a_dataset(figure, drawn):
    figure("masks", "--data.root", str(drawn / "VOCdevkit"), "--masks-images", "3")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("--out", "pca --out a.jpg"),
        ("--data", "masks"),
        ("--data", "pca --data VOC2012 --data.root x"),
        ("--at", "parts --at 1,1"),
        ("--head", "all --head 0"),
        ("--foreground", "similarity --foreground"),
        ("--parts", "parts --parts 1"),
        ("--parts", "parts --parts 20"),
        ("--size", "pca --size 0"),
        ("--labels", "pca --labels one"),
        ("--head", "attention --head last"),
        ("--head", "attention --head 9"),
        (None, "attention --block 12"),
        ("--block", "attention --block one"),
        ("--block", "attention --block all"),
        ("--basis", "pca --block 0 --basis joint"),
        ("--at", "similarity --at 3"),
        ("--at", "similarity --at 30,40"),
        ("--at", "similarity --at 1,1 2,2 3,3"),
        ("--size", "attention --size 8000"),
    ],
)
def test_contradicting_options_are_refused(weights, photos, tmp_path, field, words):
    kind, *rest = words.split()
    base = [kind, str(photos), "--weights", *weights, "--size", "48", "--device", "cpu"]
    with refused(field, kind=InputError if field else ValueError):
        run([*base, "--out", str(tmp_path / "figure.png"), *rest])
    assert not (tmp_path / "figure.png").exists()


def test_a_file_that_is_there_is_kept(figure, tmp_path, capsys):
    (tmp_path / "figure.png").write_text("mine")
    with pytest.raises(SystemExit):
        figure("pca")
    assert "give --overwrite" in capsys.readouterr().err
    assert (tmp_path / "figure.png").read_text() == "mine"


def test_a_report_has_pictures_of_any_images_with_and_without_masks():
    torch.manual_seed(0)
    models = {"one": ViT("nano", 8, 32).eval(), "two": ViT("Ti", 16, 32).eval()}
    images = [torch.randint(256, (3, *size)).to(torch.uint8) for size in ((32, 48), (48, 32))]
    masks = [torch.zeros(32, 48, dtype=torch.uint8), torch.ones(48, 32, dtype=torch.uint8)]
    for known in (masks, None):
        found = example_pictures(models, images, known)
        titles = ["PCA of patch features", "[CLS] attention", "Similarity", "Parts"]
        assert [each.title for each in found] == titles
        assert all(each.png.startswith(b"\x89PNG") and each.caption for each in found)


def test_the_middle_of_an_object_lies_in_it():
    ring = torch.zeros(9, 9, dtype=torch.uint8)
    ring[1:8, 1:8] = 3
    ring[2:7, 2:7] = 0
    ring[4, 4] = 255  # void is no object
    x, y = middle(ring, 9, 9)
    assert ring[y, x] == 3
    assert middle(torch.zeros(4, 6, dtype=torch.uint8), 4, 6) == (3, 2)
    assert middle(None, 4, 6) == (3, 2)


def test_categories_all_differ():
    for count in (2, 8, 20):
        assert len(set(categorical_colors(count))) == count
