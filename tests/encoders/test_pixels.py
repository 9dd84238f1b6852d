import torch

from vitlab.encoders import Pixels


def test_a_patch_is_its_own_pixels():
    images = torch.randn(2, 3, 32, 48)
    tokens = Pixels(16)(images)
    assert tokens.grid == (2, 3)
    assert tokens.registers.shape == (2, 0, 768)
    assert tokens.map[:, :, 1, 2].equal(images[:, :, 16:, 32:].flatten(1))


def test_cls_is_the_shrunk_image():
    color = torch.tensor([0.1, 0.2, 0.3])[None, :, None, None]
    tokens = Pixels(16)(color.expand(2, 3, 64, 32))
    torch.testing.assert_close(tokens.cls, color.expand(2, 3, 16, 16).flatten(1))
