"""`vitlab figure`, as people type it."""

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refused

from vitlab.analysis.example_pictures import example_pictures, middle
from vitlab.commands.figure import run
from vitlab.encoders import Tokens, ViT, save
from vitlab.probes import InferenceConfig
from vitlab.visualization import figure
from vitlab.visualization.colors import attention_image
from vitlab.visualization.photographs import Photograph

BLOCKS = ["plain\nblock 0", "plain\nblock 3", "sparse\nblock 0", "sparse\nblock 11"]


@pytest.fixture(scope="module")
def models():
    """Two encoders, of different width, patch, heads and options."""
    torch.manual_seed(0)
    sparse = ViT("Ti", 16, 32, normalizer="entmax15", num_registers=2)
    return {"plain": ViT("nano", 8, 32).eval(), "sparse": sparse.eval()}


@pytest.fixture(scope="module")
def given(models, tmp_path_factory):
    """Words of a command line: photographs, weights, size and device."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "photos").mkdir()
    for name, model in models.items():
        save(model, folder / name)
    drawn = np.random.default_rng(0)
    for name, shape in {"wide": (40, 90, 3), "tall.small": (60, 21, 3)}.items():
        pixels = drawn.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/{name}.png")
    weights = [str(folder / name) for name in models]
    return [str(folder / "photos"), "--weights", *weights, "--size", "48", "--device", "cpu"]


@pytest.fixture
def grid(given, tmp_path, monkeypatch):
    """Run the command on all photographs; returns the grid that it writes, as little as it can."""
    kept = []
    monkeypatch.setattr(
        "vitlab.visualization.grid.ImageGrid.save", lambda grid, _: kept.append(grid)
    )

    def draw(*words, images=()):
        kind, *more = words
        run([kind, *(images or given[:1]), *given[1:], *more, "--out", str(tmp_path / "a.png")])
        return kept[-1]

    return draw


@pytest.mark.parametrize(
    ("words", "titles", "rows"),
    [
        ("pca --foreground --basis each", ["plain", "sparse"], 2),
        ("attention --at 3,4 20,30", ["head 0", "head 1", "head 2", "mean of heads"], 4),
        ("attention --block 0 -1 --head mean", BLOCKS, 2),
        ("attention --head 2", ["plain", "sparse"], 2),
        ("similarity", ["plain", "sparse"], 2),
        ("parts --parts 3", ["plain", "sparse"], 2),
        ("all --parts 2", ["PCA", "[CLS] attention", "similarity", "parts"], 4),
    ],
)
def test_every_kind_is_drawn_for_models_that_differ_in_everything(grid, words, titles, rows):
    found = grid(*words.split())
    assert [column.title for column in found.columns] == ["image", *titles]
    assert [len(column.images) for column in found.columns] == [rows] * (1 + len(titles))
    assert list(found.labels) == ["plain", "sparse"] * 2 * (rows == 4)
    marked = "--at" in words or words.split()[0] in ("similarity", "all")
    assert any(found.columns[0].marks) == marked


def test_several_places_of_one_photograph_are_rows(grid, given):
    places = ["1,1", "5,5", "80,30"]
    first, *_ = grid("similarity", "--at", *places, images=[f"{given[0]}/wide.png"]).columns
    shares = [((x + 0.5) / 90, (y + 0.5) / 40) for x, y in ((1, 1), (5, 5), (80, 30))]
    assert list(first.marks) == shares


def test_masks_are_learned_from_a_dataset(grid, drawn):
    words = ["masks", "--data.root", str(drawn / "VOCdevkit"), "--masks-images", "3"]
    assert "fitted to 3 images of VOC2012" in grid(*words).caption


def test_a_file_is_the_same_each_time_and_kept(given, tmp_path):
    words = ["parts", *given, "--parts", "2", "--out", str(tmp_path / "figure.svg")]
    run(words)
    first = (tmp_path / "figure.svg").read_bytes()
    with refused("--out"):
        run(words)
    run([*words, "--overwrite"])
    assert (tmp_path / "figure.svg").read_bytes() == first


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("--out", "pca --out a.jpg"),
        ("--data", "masks"),
        ("--data", "pca --data VOC2012 --data.root x"),
        *(
            ("--head", each)
            for each in ("all --head 0", "attention --head last", "attention --head 9")
        ),
        ("--foreground", "similarity --foreground"),
        *(("--parts", f"parts --parts {each}") for each in (1, 20)),
        *(("--size", each) for each in ("pca --size 0", "attention --size 8000")),
        ("--labels", "pca --labels one"),
        ("layers", "attention --block 12"),
        *(("--block", f"attention --block {each}") for each in ("one", "all")),
        ("--basis", "pca --block 0 --basis joint"),
        ("--at", "parts --at 1,1"),
        *(("--at", f"similarity --at {each}") for each in ("3", "30,40", "1,1 2,2 3,3")),
    ],
)
def test_contradicting_options_are_refused(given, tmp_path, field, words):
    kind, *rest = words.split()
    with refused(field):
        run([kind, *given, "--out", str(tmp_path / "figure.png"), *rest])
    assert not (tmp_path / "figure.png").exists()


def test_attention_and_similarity_are_those_of_the_query(models):
    photo = Photograph("a", torch.randint(256, (3, 32, 48)).to(torch.uint8))
    inference = InferenceConfig(torch.device("cpu"))
    (plain, _) = figure.extract_features(models, [photo], 0, inference, places=[None])
    heads = plain.photographs[0].attention[0]
    note = f"max {100 * heads.mean(0).max():.1f} %"
    assert figure.attention_maps([plain], None).notes == [[note]]
    ((shown,),) = figure.attention_maps([plain], 1).images
    assert torch.equal(shown, attention_image(heads[1], (4, 6)))
    white = figure.attention_maps([plain], 5)
    assert white.notes == [[""]]
    assert (white.images[0][0] == 1).all()
    patches = torch.tensor([[3.0, 4.0], [0.0, 2.0], [-6.0, -8.0], [0.0, 0.0]])
    tokens = Tokens(torch.zeros(1, 2), torch.zeros(1, 0, 2), patches[None], (2, 2))
    found = figure.patch_similarity(tokens, 0)
    assert torch.allclose(found, torch.tensor([[1.0, 0.8], [-1.0, 0.0]]))


@pytest.mark.parametrize("masked", [False, True])
def test_a_report_has_pictures_of_any_images_with_and_without_masks(models, masked):
    images = [torch.randint(256, (3, *size)).to(torch.uint8) for size in ((32, 48), (48, 32))]
    masks = [torch.zeros(32, 48, dtype=torch.uint8), torch.ones(48, 32, dtype=torch.uint8)]
    found = example_pictures(models, images, masks if masked else None)
    titles = ["PCA of patch features", "[CLS] attention", "Similarity", "Parts"]
    assert [each.title for each in found] == titles
    assert all(each.png.startswith(b"\x89PNG") and each.caption for each in found)
    assert ("middle of the object" in found[2].caption) == masked


def test_the_middle_of_an_object_lies_in_it():
    ring = torch.zeros(9, 9, dtype=torch.uint8)
    ring[1:8, 1:8] = 3
    ring[2:7, 2:7] = 0
    ring[4, 4] = 255  # void is no object
    for columns in (0, 6):
        ring[:, :columns] = 0
        x, y = middle(ring, 9, 9)
        assert ring[y, x] == 3
    assert middle(torch.zeros(4, 6, dtype=torch.uint8), 4, 6) == middle(None, 4, 6) == (3, 2)
