"""Synthetic data: the same bytes for a seed, complete, in the original layouts."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused
from scipy.io import loadmat

from vitlab.data import ADE20K, Cityscapes, ImageNet, read_image, read_mask
from vitlab.data.synthetic import (
    ADE_IDS,
    ADE_STUFF,
    VOC_IDS,
    Amounts,
    collection,
    imagenet,
    synthesize,
)
from vitlab.data.synthetic.drawing.objects import KINDS

# of train and val: ImageNet (each class), VOC, ADE20K, Cityscapes
FEW = Amounts(*(2, 1), *(4, 2), *(4, 2), *(4, 2))


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "data"
    synthesize(folder, seed=3, amounts=FEW, processes=1)
    return folder


@pytest.mark.slow  # each worker imports the package
def test_the_number_of_processes_does_not_change_a_byte(root: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", seed=3, amounts=FEW, processes=2)
    assert digests(tmp_path / "again") == digests(root)


def test_another_seed_changes_every_picture_and_more_pictures_change_none(
    root: Path, tmp_path: Path
) -> None:
    synthesize(tmp_path / "other", seed=4, amounts=FEW, processes=1)
    more = Amounts(**{**FEW.__dict__, "imagenet_val": 2, "voc_train": 5})
    synthesize(tmp_path / "more", seed=3, amounts=more, processes=1)
    mine, other, larger = digests(root), digests(tmp_path / "other"), digests(tmp_path / "more")
    pictures = [name for name in mine if name.endswith((".JPEG", ".jpg", "leftImg8bit.png"))]
    assert len(pictures) == 36 + 6 + 6 + 6
    assert all(mine[name] != other[name] for name in pictures)
    assert all(mine[name] == larger[name] for name in pictures)


def test_imagenet_devkit_tells_the_class_that_was_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    real = imagenet.portrait
    monkeypatch.setattr(imagenet, "portrait", lambda *given: drawn.append(given[3]) or real(*given))
    synthesize(tmp_path / "data", amounts=FEW, processes=1)
    data = ImageNet(str(tmp_path / "data/imagenet"))
    assert data.samples("val").labels.tolist() == drawn[24:]
    assert sorted(drawn[24:]) == [*range(len(KINDS))]
    assert data.samples("train").labels.tolist() == sorted(drawn[:24])
    meta = data.folder / "ILSVRC2012_devkit_t12/data/meta.mat"
    synsets = loadmat(meta, squeeze_me=True)["synsets"]
    leaves = [str(row["WNID"]) for row in synsets if row["num_children"] == 0]
    assert sorted(leaves) == [*data.classes] != leaves  # the devkit has another order
    assert len(synsets) > len(leaves)


def test_masks_of_voc_and_ade_have_their_modes_and_classes(root: Path) -> None:
    voc, ade = root / "VOCdevkit/VOC2012", root / "ADEChallengeData2016"
    for path in (voc / "SegmentationClass").iterdir():
        mask, labels = Image.open(path), read_mask(path)
        assert mask.mode == "P"
        assert mask.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
        assert labels.shape == read_image(voc / f"JPEGImages/{path.stem}.jpg").shape[:2]
        assert {0, 255} < set(np.unique(labels)) <= {0, 255, *VOC_IDS}
        # no pixel of one class touches a pixel of another: the rim lies between
        for one, two in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            assert not ((one != two) & (one != 255) & (two != 255)).any()
    seen = set()
    for path in ade.glob("annotations/*/*.png"):
        labels = read_mask(path)
        assert (
            labels.shape == read_image(ade / f"images/{path.parent.name}/{path.stem}.jpg").shape[:2]
        )
        seen |= set(np.unique(labels).tolist())
    assert 0 in seen <= {0, *ADE_IDS, *ADE_STUFF.values()}
    assert seen & set(ADE_IDS)
    assert seen & set(ADE_STUFF.values())
    names = ADE20K(str(root)).classes
    assert len(names) == 150
    assert names[ADE_STUFF["sky"] - 1] == "sky"


def test_cityscapes_instances_and_colors_agree_with_the_labels(root: Path) -> None:
    seen: set[int] = set()
    for path in sorted((root / "cityscapes/gtFine").rglob("*_labelIds.png")):
        labels, instances, colors = (
            np.asarray(Image.open(str(path).replace("labelIds", kind)))
            for kind in ("labelIds", "instanceIds", "color")
        )
        assert colors.shape == (*labels.shape, 4)
        counted = labels >= 24
        assert (instances[counted].astype(int) // 1000 == labels[counted]).all()
        assert (instances[~counted] == labels[~counted]).all()
        seen |= set(np.unique(labels).tolist())
    assert {1, 3, 7, 8, 11, 23} <= seen
    assert max(seen) <= 33
    for split, count in (("train", FEW.cityscapes_train), ("val", FEW.cityscapes_val)):
        assert len(Cityscapes(str(root)).samples(split)) == count


def test_what_is_there_is_kept_and_foreign_files_and_other_collections_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "_tasks", lambda *_: pytest.fail("drew again"))
    synthesize(root, seed=3, amounts=FEW)
    (tmp_path / "thesis.tex").write_text("years of work")
    for folder in (tmp_path, root):
        before = digests(folder)
        with refused("--root"):
            synthesize(folder, seed=5, amounts=FEW)
        assert digests(folder) == before
    with refused("amounts.voc_val"):
        Amounts(voc_val=0)
    with refused("seed"):
        synthesize(Path("unused"), seed=-1)


def test_an_interrupted_run_leaves_no_folder_and_the_next_completes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "deep" / "data"

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(collection.SETS, "ade", ("ADEChallengeData2016", interrupt))
        with pytest.raises(KeyboardInterrupt):
            synthesize(target, seed=3, amounts=FEW, processes=1)
    assert not target.exists()
    assert (tmp_path / "deep" / "data.partial").is_dir()
    target.mkdir()  # an empty folder is no obstacle
    synthesize(target, seed=3, amounts=FEW, processes=1)
    assert digests(target) == digests(root)
    assert [path.name for path in target.parent.iterdir()] == ["data"]
