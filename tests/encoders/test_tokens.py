import torch

from vitlab.encoders.tokens import TokenSequence, assemble, prefix_length, split_at


def test_the_parts_of_a_sequence_are_what_it_was_assembled_from():
    cls, registers = torch.randn(1, 1, 4), torch.randn(1, 3, 4)
    patches = torch.randn(2, 6, 4)
    tokens = TokenSequence(assemble(cls, registers, patches), (2, 3)).tokens()
    assert tokens.cls.equal(cls[:, 0].expand(2, -1))
    assert tokens.registers.equal(registers.expand(2, -1, -1))
    assert tokens.patches.equal(patches)


def test_the_map_is_row_by_row():
    patches = torch.arange(6.0).view(1, 6, 1)
    cls = torch.zeros(1, 1, 1)
    tokens = TokenSequence(assemble(cls, cls[:, :0], patches), (2, 3)).tokens()
    assert tokens.map.equal(torch.arange(6.0).view(1, 1, 2, 3))


def test_the_prefix_is_what_is_not_a_patch():
    assert prefix_length(1 + 4 + 6, (2, 3)) == 5


def test_a_split_loses_nothing():
    x = torch.randn(2, 5, 3)
    assert torch.cat(split_at(x, 2), dim=1).equal(x)
