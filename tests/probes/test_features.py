import torch
from torch.utils.data import TensorDataset

from vitlab.encoders import Pixels, ViT
from vitlab.probes import InferenceConfig, image_features


def test_features_come_in_the_order_of_the_images():
    images = torch.rand(7, 3, 16, 16)
    table = image_features(
        Pixels(8),
        TensorDataset(images, torch.arange(7)),
        InferenceConfig(torch.device("cpu"), batch_size=3),
    )
    assert table.y.tolist() == list(range(7))
    assert torch.equal(table.x, Pixels(8)(images).cls)


def test_loading_draws_nothing_from_the_run():
    set_of_images = TensorDataset(torch.rand(4, 3, 16, 16), torch.arange(4))
    encoder = ViT("nano", 8, 16).eval()
    before = torch.get_rng_state()
    with torch.no_grad():
        image_features(encoder, set_of_images, InferenceConfig(torch.device("cpu")))
    assert torch.equal(before, torch.get_rng_state())
