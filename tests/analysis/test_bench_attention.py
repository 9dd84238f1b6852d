import torch

from vitlab.analysis import bench_attention


def test_the_attentions_compared_are_the_same_work():
    (_, ours, _, softmax), (_, again, _, package) = bench_attention.of((1, 2, 9, 16))
    assert ours is again
    for mine, theirs in zip(ours(), package(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=2e-6)
    assert [x.shape for x in softmax()] == [x.shape for x in ours()]
