import pytest
import torch
from refusals import refused
from sklearn.decomposition import PCA

from vitlab.visualization.features import PatchMatrix
from vitlab.visualization.pca import (
    align,
    colors,
    foreground,
    pca_colors,
    pca_scores,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(rows, columns, seed=0):
    return torch.linalg.qr(random(columns, rows, seed=seed))[0].T


def planted(s=240, d=20, seed=0):
    """Uncorrelated factors of falling size, and features that hold nothing else."""
    factors = random(s, 3, seed=seed)
    factors = torch.linalg.qr(factors - factors.mean(0))[0]
    return factors * torch.tensor([9.0, 4.0, 2.0]), orthonormal(3, d, seed + 1)


def test_planted_features_of_rank_3_come_back_up_to_the_rule_for_signs():
    factors, axes = planted()
    scores = pca_scores((factors @ axes).float())
    largest = axes.T.gather(0, axes.T.abs().argmax(0, keepdim=True))
    wanted = factors * largest.sign() / factors.square().mean(0).sqrt()
    assert torch.allclose(scores, wanted, atol=1e-4)
    assert torch.allclose(colors(scores), colors(wanted), atol=1e-3)


def test_scores_are_those_of_scikit_learn_up_to_signs():
    x = random(100, 8) * torch.arange(1.0, 9)
    theirs = torch.from_numpy(PCA(3).fit_transform(x.numpy()))
    theirs = theirs / theirs.square().mean(0).sqrt()
    assert torch.allclose(pca_scores(x).abs(), theirs.abs(), atol=1e-9)


def test_signs_do_not_depend_on_the_order_of_patches_nor_on_the_mean():
    factors, axes = planted()
    x = factors @ axes
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(pca_scores(x[order] + 5), pca_scores(x)[order])


def test_a_component_that_the_features_do_not_have_is_nothing_rather_than_rounding():
    factors, axes = planted()
    flat = (factors[:, :1] @ axes[:1]).float()
    assert (pca_scores(flat)[:, 1:] == 0).all()
    assert (pca_scores(torch.full((9, 5), 3.7)) == 0).all()
    assert (colors(pca_scores(torch.ones(1, 8))) == 0).all()


def test_equal_features_have_equal_colors_in_two_models_whatever_the_basis():
    tables = [PatchMatrix(random(2 * 12, 8).float(), [(3, 4), (3, 4)])] * 2
    for basis in ("aligned", "joint", "each"):
        first, second = pca_colors(tables, basis)
        assert [each.shape for each in first] == [(3, 3, 4), (3, 3, 4)]
        for one, other in zip(first, second, strict=True):
            assert torch.allclose(one, other, atol=1e-6)


def test_models_of_different_width_agree_in_color_where_features_are_turned_copies():
    factors, axes = planted(s=24)
    narrow = PatchMatrix((factors @ axes).float(), [(4, 6)])
    wide = PatchMatrix((factors @ orthonormal(3, 50, seed=9)).float(), [(4, 6)])
    (one,), (other,) = pca_colors([narrow, wide], "aligned")
    assert torch.allclose(one, other, atol=1e-3)


def test_alignment_is_orthogonal_and_undoes_a_turn():
    scores, turn = random(50, 3), orthonormal(3, 3, seed=5)
    assert torch.allclose(align(scores @ turn, scores), scores)
    other = align(random(50, 3, seed=7), scores)
    assert torch.allclose(other.norm(dim=1), random(50, 3, seed=7).norm(dim=1))


def test_models_of_different_patches_are_aligned_on_the_same_places():
    """Features that are smooth over the image, seen at two resolutions."""
    maps = []
    for rows, columns in ((8, 12), (16, 24)):
        y = (torch.arange(rows) + 0.5) / rows
        x = (torch.arange(columns) + 0.5) / columns
        both = torch.stack([y[:, None].expand(rows, columns), x.expand(rows, columns)], -1)
        factors = torch.cat([9 * both[..., :1], 4 * both[..., 1:]], -1).flatten(0, 1)
        maps.append(PatchMatrix(factors @ orthonormal(2, 10, seed=rows).float(), [(rows, columns)]))
    (coarse,), (fine,) = pca_colors(maps, "aligned")
    shrunk = torch.nn.functional.avg_pool2d(fine, 2)
    assert (coarse[:2] - shrunk[:2]).abs().max() < 0.05


def test_a_joint_basis_of_different_widths_is_refused():
    tables = [PatchMatrix(random(4, width).float(), [(2, 2)]) for width in (6, 8)]
    with refused("--basis"):
        pca_colors(tables, "joint")


@pytest.mark.parametrize("sign", [1, -1])
def test_the_foreground_is_the_side_that_avoids_the_border(sign):
    inside = torch.zeros(6, 8, dtype=torch.bool)
    inside[2:5, 3:6] = True
    x = random(48, 5) * 0.1
    x[:, 0] += sign * 10 * inside.flatten()
    assert torch.equal(foreground(PatchMatrix(x.float(), [(6, 8)])), inside.flatten())


def test_only_the_foreground_has_colors():
    inside = torch.zeros(6, 8, dtype=torch.bool)
    inside[2:5, 3:6] = True
    x = random(48, 5)
    x[:, 0] += 30 * inside.flatten()
    ((shown,),) = pca_colors([PatchMatrix(x.float(), [(6, 8)])], only_foreground=True)
    assert (shown[:, ~inside] == 0).all()
    assert shown[:, inside].std() > 0.1


def test_an_image_of_one_patch_can_be_shown():
    for only in (False, True):
        ((shown,),) = pca_colors([PatchMatrix(torch.ones(1, 8), [(1, 1)])], only_foreground=only)
        assert shown.shape == (3, 1, 1)
