import pytest
import torch
from refusals import refused
from sklearn.decomposition import PCA

from vitlab.visualization.features import PatchMatrix
from vitlab.visualization.pca import align, colors, foreground, pca_colors, pca_scores


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(rows, columns, seed=0):
    return torch.linalg.qr(random(columns, rows, seed=seed))[0].T


def test_scores_are_those_of_scikit_learn_with_the_sign_of_the_largest_loading():
    x = random(100, 8) * torch.arange(1.0, 9) + 5
    peer = PCA(3).fit(x.numpy())
    theirs, loadings = map(torch.from_numpy, (peer.transform(x.numpy()), peer.components_))
    signs = loadings.gather(1, loadings.abs().argmax(1, keepdim=True)).sign().T
    wanted = theirs * signs / theirs.square().mean(0).sqrt()
    assert torch.allclose(pca_scores(x), wanted, atol=1e-9)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(pca_scores(x[order] - 5), wanted[order], atol=1e-9)


def test_a_component_that_the_features_do_not_have_is_nothing_rather_than_rounding():
    flat = (9 * random(240, 1) @ orthonormal(1, 20)).float()
    assert (pca_scores(flat)[:, 1:] == 0).all()
    assert (pca_scores(torch.full((9, 5), 3.7)) == 0).all()
    assert pca_scores(random(9, 2)).shape == (9, 3)
    for only in (False, True):  # an image of one patch
        ((shown,),) = pca_colors([PatchMatrix(torch.ones(1, 8), [(1, 1)])], only_foreground=only)
        assert torch.equal(shown, torch.zeros(3, 1, 1))


def test_the_darkest_and_the_brightest_two_percent_are_cut_off():
    shown = colors(torch.arange(101.0)[:, None].expand(101, 3).double())
    assert torch.allclose(shown[:, 0], ((torch.arange(101.0) - 2) / 96).clamp(0, 1))


@pytest.mark.parametrize("basis", ["aligned", "joint", "each"])
def test_equal_features_have_equal_colors_in_two_models_whatever_the_basis(basis):
    tables = [PatchMatrix(random(2 * 12, 8).float(), [(3, 4), (3, 4)])] * 2
    first, second = pca_colors(tables, basis)
    assert [each.shape for each in first] == [(3, 3, 4), (3, 3, 4)]
    for one, other in zip(first, second, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_joint_basis_compares_values_of_models_and_needs_one_width():
    x = random(12, 8).float()
    low, high = pca_colors([PatchMatrix(x, [(3, 4)]), PatchMatrix(x + 50, [(3, 4)])], "joint")
    assert not torch.allclose(low[0], high[0], atol=0.1)
    with refused("--basis"):
        pca_colors([PatchMatrix(x, [(3, 4)]), PatchMatrix(x[:, :6], [(3, 4)])], "joint")


def test_alignment_is_orthogonal_and_undoes_a_turn():
    scores, turn = random(50, 3), orthonormal(3, 3, seed=5)
    assert torch.allclose(align(scores @ turn, scores), scores)
    other = random(50, 3, seed=7)
    assert torch.allclose(align(other, scores).norm(dim=1), other.norm(dim=1))


def test_models_of_different_width_and_patches_are_aligned_on_the_same_places():
    """Features that are smooth over the image, seen at two resolutions and turned."""
    maps = []
    for rows, columns, width in ((8, 12, 10), (16, 24, 50)):
        y, x = (torch.arange(rows) + 0.5) / rows, (torch.arange(columns) + 0.5) / columns
        factors = torch.cartesian_prod(9 * y, 4 * x)
        axes = orthonormal(2, width, seed=rows).float()
        maps.append(PatchMatrix(factors @ axes, [(rows, columns)]))
    (coarse,), (fine,) = pca_colors(maps, "aligned")
    shrunk = torch.nn.functional.avg_pool2d(fine, 2)
    assert (coarse[:2] - shrunk[:2]).abs().max() < 0.05


@pytest.mark.parametrize("sign", [1, -1])
def test_the_foreground_is_the_side_that_avoids_the_border_and_alone_has_colors(sign):
    inside = torch.zeros(6, 8, dtype=torch.bool)
    inside[2:5, 3:6] = True
    x = random(48, 5)
    x[:, 0] += sign * 30 * inside.flatten()
    table = PatchMatrix(x.float(), [(6, 8)])
    assert torch.equal(foreground(table), inside.flatten())
    ((shown,),) = pca_colors([table], only_foreground=True)
    assert (shown[:, ~inside] == 0).all()
    assert shown[:, inside].std() > 0.1
