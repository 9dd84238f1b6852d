import torch
from torch.utils.data import TensorDataset

from vitlab.encoders import Pixels, ViT
from vitlab.probes import InferenceConfig, image_features
from vitlab.probes.eval_mode import eval_mode


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


def test_evaluation_mode_is_left_as_it_was_entered():
    model = ViT("nano", 8, 16, drop_path=0.5).train()
    before = torch.get_rng_state()
    with eval_mode(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        torch.rand(3)
    assert model.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
