"""Own classes that lack a part of their contract: what is missing, before any work starts."""

import random

import cv2
import jaxtyping
import numpy as np
import pytest
import torch
from lightning import Trainer
from refusals import refused
from torch import nn

from vitlab.callbacks.online_probes import OnlineProbes
from vitlab.data import Samples, Transform, VisionDataModule
from vitlab.encoders import Encoder, Tokens, ViT
from vitlab.errors import InputError
from vitlab.objectives import DINO, DINOHeadConfig, Loss, Objective, SelfDistillation
from vitlab.probes import Probe
from vitlab.run.contracts import check_own_classes, try_loss
from vitlab.run.module import Pretraining
from vitlab.usage_errors import explain


class Net(Encoder):
    def __init__(self, grid=(2, 2)):
        super().__init__()
        self.embed_dim, self.patch_size, self.grid = 4, 8, grid
        self.net = nn.Conv2d(3, 4, 8, 8)

    def forward(self, images):
        patches = self.net(images).flatten(2).transpose(1, 2)
        return Tokens(patches.mean(1), patches[:, :0], patches, self.grid)


class Own(Objective):
    """Returns what `make` makes of [CLS]; draws numbers; counts in a buffer and an attribute."""

    def __init__(self, make=lambda cls: Loss(cls.mean()), encoder=None):
        super().__init__()
        self.encoder, self.make = encoder or Net(), make
        self.norm, self.calls = nn.BatchNorm1d(4), 0

    def loss(self, batch, progress):
        self.calls += 1
        return self.make(self.norm(self.encoder(batch.views[0][0]).cls) + random.random())


class Crop(Transform):
    def __init__(self, make=lambda image, seed: [image], sizes=((1, 16),)):
        self.make, self.sizes = make, sizes

    @property
    def crop_sizes(self):
        return list(self.sizes)

    def __call__(self, image, seed=0):
        return self.make(torch.from_numpy(image[:16, :16].transpose(2, 0, 1).copy())[None], seed)


class Data(VisionDataModule):
    classes = ("a", "b")
    make = staticmethod(lambda files, images, labels: Samples(files, images, labels))

    def scan(self, split):
        images = np.array([f"{split}{i}.png".encode() for i in range(8)])
        return self.make(self.files, images, np.arange(8) % 2)


class Mean(Probe):
    def __init__(self, returned=None, found=None, scores=None):
        self.returned, self.found, self.scores = returned, found, scores

    def fit(self, train, num_classes):
        return self if self.returned is None else self.returned

    def predict(self, x):
        return torch.zeros(len(x), dtype=torch.long) if self.found is None else self.found(x)

    def score(self, test):
        return {"top1": torch.tensor(50.0)} if self.scores is None else self.scores


@pytest.fixture
def data(tmp_path):
    for split in ("train", "val"):
        for i in range(8):
            image = np.full((20, 20, 3), 30 * i, np.uint8)
            image[::2] += 40
            cv2.imwrite(str(tmp_path / f"{split}{i}.png"), image)
    return Data(tmp_path, 4, transform=Crop(), num_workers=0)


def check(data, objective=None, probe=None):
    """What a plan does."""
    objective = Pretraining(objective or Own()).objective
    check_own_classes(objective, data)
    OnlineProbes(size=16, dense_size=16, more={"own": probe or Mean()}).check(objective, data)
    try_loss(objective, data, Trainer(accelerator="cpu", devices=1, logger=False))


@pytest.fixture(autouse=True)
def _unchecked():
    """The checks of shapes, which tests may switch on, would be the first to refuse."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def state():
    return str([torch.get_rng_state(), random.getstate(), np.random.get_state()])  # noqa: NPY002


def test_good_classes_pass_and_stay_as_they_are(data):
    objective, before = Own(), state()
    check(data, objective)
    assert state() == before
    assert (objective.calls, int(objective.norm.num_batches_tracked)) == (0, 0)


def test_statistics_may_need_more_than_two_images(data):
    check(data, Own(lambda cls: Loss(cls.topk(3, 0).values.mean())))


LOSS = {
    "nothing": lambda cls: None,
    "a tensor": torch.mean,
    "no tensor": lambda cls: Loss(1.0),
    "detached": lambda cls: Loss(cls.mean().detach()),
    "a list of logs": lambda cls: Loss(cls.mean(), [1]),
    "a number": lambda cls: Loss(cls.mean(), {"std": 1.0}),
    "a log with a graph": lambda cls: Loss(cls.mean(), {"std": cls.std()}),
    "a log of all": lambda cls: Loss(cls.mean(), {"std": cls.detach()}),
}
TRANSFORM = {
    "a tensor": Crop(lambda image, seed: image),
    "arrays": Crop(lambda image, seed: [image.numpy()]),
    "floats": Crop(lambda image, seed: [image / 255]),
    "one crop": Crop(sizes=((2, 16),)),
    "another stack": Crop(sizes=((1, 16), (4, 8))),
    "no pairs": Crop(sizes=(16,)),
    "another each time": Crop(lambda image, seed: [image + random.randrange(200)]),
}
PROBE = {
    "fit returns nothing": Mean(returned=0),
    "predict gives scores": Mean(found=lambda x: x),
    "predict gives an array": Mean(found=lambda x: x[:, 0].numpy()),
    "score gives a number": Mean(scores=71.5),
    "score gives nothing": Mean(scores={}),
    "score gives a table": Mean(scores={"top1": torch.zeros(2)}),
}
SCAN = {
    "a list": lambda files, images, labels: list(images),
    "text": lambda files, images, labels: Samples(files, images.astype(str), labels),
    "a list of names": lambda files, images, labels: Samples(files, list(images), labels),
    "names of classes": lambda files, images, labels: Samples(files, images, images),
    "fewer labels": lambda files, images, labels: Samples(files, images, labels[:3]),
    "an unknown class": lambda files, images, labels: Samples(files, images, labels + 1),
    "fewer masks": lambda files, images, labels: Samples(files, images, labels, images[1:]),
}


@pytest.mark.parametrize("case", LOSS)
def test_what_a_loss_lacks_is_named(data, case):
    with refused("model.objective"):
        check(data, Own(LOSS[case]))


@pytest.mark.parametrize("case", TRANSFORM)
def test_what_a_transform_lacks_is_named(data, case):
    data.transform = TRANSFORM[case]
    with refused("data.transform", wording=case != "no pairs"):
        check(data)


@pytest.mark.parametrize("case", PROBE)
def test_what_a_probe_lacks_is_named(data, case):
    with refused("probing.more.own"):
        check(data, probe=PROBE[case])


@pytest.mark.parametrize("case", SCAN)
def test_what_a_scan_lacks_is_named(data, case):
    data.make = SCAN[case]
    with refused("data"):
        check(data)


class Half(Probe):
    def fit(self, train, num_classes):
        return self


def test_methods_that_are_missing_are_named():
    name = f"{__name__}.Half"
    message = f'Parser key "probing.more":\n  but {name} is abstract'
    expected = f"probing.more: {name} lacks predict, score; define it there"
    assert explain(message, []) == expected


def test_code_that_fails_is_named_with_its_line(data):
    with pytest.raises(InputError, match=r"Own.loss, tried on 4 images, fails: Zero.*line \d+"):
        check(data, Own(lambda cls: 1 / 0))
    data.make = lambda *_: {}["path"]
    data._samples.clear()
    with pytest.raises(InputError, match=r"Data.scan\('train'\) fails: KeyError: 'path'"):
        check(data)


def test_a_teacher_is_logged(data):
    class Distilled(Own):
        def distillation(self, progress):
            return SelfDistillation(self, self, 0.1, 0.1, 0.9, torch.zeros(()))

    with refused("model.objective"):
        check(data, Distilled())
    names = ("entropy", "divergence", "prototypes")
    logs = {f"teacher/{name}": torch.zeros(()) for name in names}
    check(data, Distilled(lambda cls: Loss(cls.mean(), logs)))


@pytest.mark.parametrize("encoder", [None, 3])
def test_an_objective_without_encoder_is_refused(encoder):
    objective = Own()
    del objective.encoder
    if encoder:
        objective.encoder = encoder
    with refused("model.objective"):
        Pretraining(objective)


@pytest.mark.parametrize(
    "wrap", [lambda net: DINO(net, DINOHeadConfig(8, 8, 4)), lambda net: Own(encoder=net)]
)
def test_an_own_encoder_is_tried_in_every_objective(data, wrap):
    check_own_classes(wrap(Net()), data)
    with refused("model.objective.encoder"):
        check_own_classes(wrap(Net(grid=(1, 4))), data)
    check_own_classes(DINO(ViT("nano", img_size=16), DINOHeadConfig(8, 8, 4)), data)
