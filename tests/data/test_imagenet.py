import shutil
import tarfile

import pytest

from vitlab.data import DataError, ImageNet


def test_a_class_has_the_place_of_its_wordnet_id_in_sorted_order(imagenet):
    data = ImageNet(str(imagenet))
    assert data.classes == ("n01440764", "n02102040", "n03000684")
    assert data.num_classes == 3
    for split in ("train", "val"):
        samples = data.samples(split)
        for i in range(len(samples)):
            assert (imagenet / samples.image(i)).is_file()
            assert samples.image(i).split("/")[:2] == [split, data.classes[samples.labels[i]]]
    assert len(data.samples("train")) == 12


@pytest.mark.parametrize("above", ["ILSVRC/Data/CLS-LOC", "imagenet"])
def test_the_root_may_be_a_folder_above(imagenet, tmp_path_factory, above):
    root = tmp_path_factory.mktemp("above")
    shutil.copytree(imagenet, root / above)
    assert len(ImageNet(str(root)).samples("val")) == 6


def test_flat_validation_takes_its_labels_from_the_devkit(imagenet, flatten):
    flatten(imagenet)
    samples = ImageNet(str(imagenet)).samples("val")
    assert samples.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert samples.image(0) == "val/ILSVRC2012_val_00000001.JPEG"


def test_flat_validation_takes_its_labels_from_kaggle_too(imagenet, flatten, tmp_path_factory):
    names = flatten(imagenet)
    root = tmp_path_factory.mktemp("kaggle")
    shutil.copytree(imagenet, root / "ILSVRC/Data/CLS-LOC")
    shutil.rmtree(root / "ILSVRC/Data/CLS-LOC/ILSVRC2012_devkit_t12")
    boxes = [f"ILSVRC2012_val_{i + 1:08d},{names[i // 2]} 1 2 3 4" for i in range(6)]
    text = "ImageId,PredictionString\n" + "\n".join(boxes)
    (root / "LOC_val_solution.csv").write_text(text)
    assert ImageNet(str(root)).samples("val").labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_flat_validation_without_ground_truth_asks_for_it(imagenet, flatten):
    flatten(imagenet)
    shutil.rmtree(imagenet / "ILSVRC2012_devkit_t12")
    with pytest.raises(DataError, match=r"no class folders.*put ILSVRC2012_devkit_t12.tar.gz"):
        ImageNet(str(imagenet)).samples("val")


def test_incomplete_flat_validation_is_refused(imagenet, flatten):
    flatten(imagenet)
    (imagenet / "val/ILSVRC2012_val_00000004.JPEG").unlink()
    expected = "holds 5 images, its ground truth 6; without an image: ILSVRC2012_val_00000004;"
    with pytest.raises(DataError, match=expected):
        ImageNet(str(imagenet)).samples("val")


def test_flat_validation_of_other_classes_is_refused(imagenet, flatten):
    flatten(imagenet)
    shutil.rmtree(imagenet / "train/n02102040")
    with pytest.raises(DataError, match="only in val: n02102040; only in train: none;"):
        ImageNet(str(imagenet)).samples("val")


def test_validation_folders_of_other_classes_are_refused(imagenet):
    (imagenet / "val/n02102040").rename(imagenet / "val/151")  # the devkit's number
    expected = "different classes; only in val: 151; only in training: n02102040; both must"
    with pytest.raises(DataError, match=expected):
        ImageNet(str(imagenet)).samples("val")


def test_a_stray_folder_is_refused_since_it_would_shift_the_classes(imagenet):
    (imagenet / "train/misc").mkdir()
    with pytest.raises(DataError, match=r"no WordNet id such as n01440764: misc; .* move them"):
        ImageNet(str(imagenet)).samples("train")


def test_an_empty_class_folder_is_refused(imagenet):
    for path in (imagenet / "train/n02102040").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"class folder .*n02102040 holds no image .* extract"):
        ImageNet(str(imagenet)).samples("train")


def test_hidden_files_are_no_classes_and_no_images(imagenet):
    (imagenet / "train/.DS_Store").touch()
    (imagenet / "train/.cache").mkdir()
    (imagenet / "train/n02102040/._n02102040_1.JPEG").touch()
    assert len(ImageNet(str(imagenet)).samples("train")) == 12


@pytest.mark.parametrize(("name", "counts"), [("imagenette_96", (9171, 3903))])
def test_real_images_of_ten_classes_are_found(real, name, counts):
    data = ImageNet(str(real(name)))
    assert data.num_classes == 10
    assert tuple(len(data.samples(split)) for split in ("train", "val")) == counts
    image, label = data.classification_dataset("val", 64, limit=10)[3]
    assert image.shape == (3, 64, 64)
    assert label == 3


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("content", [b"", bytes(300), b"\x80\x04."])
def test_a_devkit_that_cannot_be_read_says_so(imagenet, flatten, packed, content):
    flatten(imagenet)
    folder = imagenet / "ILSVRC2012_devkit_t12"
    (folder / "data/meta.mat").write_bytes(content)
    if packed:
        with tarfile.open(f"{folder}.tar.gz", "w:gz") as archive:
            archive.add(folder, folder.name)
        shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"cannot read .*ILSVRC2012_devkit_t12.* again"):
        ImageNet(str(imagenet)).samples("val")
