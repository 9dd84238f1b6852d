import torch
from torch.utils.data import TensorDataset

from vitlab.encoders import Pixels, ViT
from vitlab.probes import InferenceConfig, image_features


def test_features_come_in_the_order_of_the_images_and_draw_nothing():
    images = TensorDataset(torch.rand(7, 3, 16, 16), torch.arange(7))
    config = InferenceConfig(torch.device("cpu"), batch_size=3)
    table = image_features(Pixels(8), images, config)
    assert table.y.tolist() == list(range(7))
    assert torch.equal(table.x, Pixels(8)(images.tensors[0]).cls)
    encoder = ViT("nano", 8, 16).eval()
    before = torch.get_rng_state()
    with torch.no_grad():
        image_features(encoder, images, config)
    assert torch.equal(before, torch.get_rng_state())
