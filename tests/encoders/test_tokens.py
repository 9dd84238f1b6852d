import torch

from vitlab.encoders import Pixels
from vitlab.encoders.tokens import TokenSequence, assemble, prefix_length, split_at


def test_the_parts_of_a_sequence_are_what_it_was_assembled_from():
    cls, registers, patches = torch.randn(1, 1, 4), torch.randn(1, 3, 4), torch.randn(2, 6, 4)
    x = assemble(cls, registers, patches)
    tokens = TokenSequence(x, (2, 3)).tokens()
    assert tokens.cls.equal(cls[:, 0].expand(2, -1))
    assert tokens.registers.equal(registers.expand(2, -1, -1))
    assert tokens.patches.equal(patches)
    assert tokens.map[1, :, 1, 2].equal(patches[1, 5])  # row by row
    assert tokens.map[1, :, 0, 2].equal(patches[1, 2])
    assert prefix_length(1 + 3 + 6, (2, 3)) == 4
    assert torch.cat(split_at(x, 2), dim=1).equal(x)


def test_raw_pixels_are_patches_and_cls_is_the_shrunk_image():
    images = torch.randn(2, 3, 32, 48)
    tokens = Pixels(16)(images)
    assert tokens.grid == (2, 3)
    assert tokens.registers.shape == (2, 0, 768)
    assert tokens.map[:, :, 1, 2].equal(images[:, :, 16:, 32:].flatten(1))
    color = torch.tensor([0.1, 0.2, 0.3])[None, :, None, None]
    tokens = Pixels(16)(color.expand(2, 3, 64, 32))
    torch.testing.assert_close(tokens.cls, color.expand(2, 3, 16, 16).flatten(1))
