"""The losses of pre-training against the papers' equations, written as loops in float64."""

from __future__ import annotations

import math

import pytest
import torch
from timm.layers import PatchEmbed
from torch import Tensor
from torch.nn import functional

from edgevit.training.ssl import losses


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cosine(left: Tensor, right: Tensor) -> float:
    return float(left @ right / left.norm() / right.norm())


def simclr_equation(first: Tensor, second: Tensor, temperature: float) -> float:
    """Chen et al. 2020, algorithm 1: z of 2N views, the pairs (2k − 1, 2k) and (2k, 2k − 1)."""
    z = [view for pair in zip(first, second, strict=True) for view in pair]

    def loss(i: int, j: int) -> float:
        others = sum(math.exp(cosine(z[i], z[k]) / temperature) for k in range(len(z)) if k != i)
        return -math.log(math.exp(cosine(z[i], z[j]) / temperature) / others)

    return sum(loss(2 * k, 2 * k + 1) + loss(2 * k + 1, 2 * k) for k in range(len(first))) / len(z)


def test_nt_xent_is_the_papers() -> None:
    views = drawn(2, 5, 4)
    expected = simclr_equation(views[0], views[1], 0.3)
    assert float(losses.nt_xent(views, views, torch.arange(5), 0, 0.3)) == pytest.approx(expected, rel=1e-12)


def test_views_of_ones_own_image_from_another_pass_do_not_repel() -> None:
    views, images = drawn(2, 3, 4), [7, 4, 7]  # the first and the third row are one image
    z, terms = views.flatten(0, 1), []
    for i, j in [(0, 3), (1, 4), (2, 5), (3, 0), (4, 1), (5, 2)]:
        others = [k for k in range(6) if k == j or images[k % 3] != images[i % 3]]
        scores = {k: math.exp(cosine(z[i], z[k]) / 0.3) for k in others}
        terms.append(-math.log(scores[j] / sum(scores.values())))
    found = losses.nt_xent(views, views, torch.tensor(images), 0, 0.3)
    assert float(found) == pytest.approx(sum(terms) / 6, rel=1e-12)


def test_nt_xent_of_the_ranks_is_that_of_the_whole_batch() -> None:
    views = drawn(2, 6, 4)
    samples = torch.tensor([3, 1, 4, 1, 5, 9])
    whole = losses.nt_xent(views, views, samples, 0, 0.2)
    parts = [losses.nt_xent(views[:, place : place + 2], views, samples, place, 0.2) for place in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_dino_is_the_papers() -> None:
    student, teacher, center = drawn(4, 3, 6), drawn(2, 3, 6, seed=1), drawn(6, seed=2)
    terms = []
    for x in range(2):
        for other in range(4):
            if other != x:
                for sample in range(3):
                    target = functional.softmax((teacher[x, sample] - center) / 0.04, 0)
                    answer = functional.softmax(student[other, sample] / 0.1, 0)
                    terms.append(-sum(float(t) * math.log(float(s)) for t, s in zip(target, answer, strict=True)))
    found = losses.dino_cross_entropy(student, teacher, center, 0.1, 0.04)
    assert float(found) == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_patches_are_in_the_order_of_timms_patch_embedding() -> None:
    embed = PatchEmbed(img_size=8, patch_size=4, embed_dim=5, bias=False).double()
    images = drawn(2, 3, 8, 8)
    kernel = embed.proj.weight.permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(losses.patches_of(images, (4, 4)) @ kernel.T, embed(images))


def test_masked_patch_error_is_the_mean_over_masked_pixels_alone() -> None:
    images, predicted, masked = drawn(2, 3, 8, 8), drawn(2, 4, 48, seed=1), torch.tensor([[0, 3], [2, 1]])
    errors = []
    for image, answer, places in zip(images, predicted, masked.tolist(), strict=True):
        for place in places:
            row, column = divmod(place, 2)
            patch = image[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].permute(1, 2, 0).flatten()
            target = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
            errors.append((answer[place] - target).square().mean())
    found = losses.masked_patch_error(predicted, images, masked, (4, 4))
    torch.testing.assert_close(found, torch.stack(errors).mean())


def test_byol_is_the_papers() -> None:
    predicted, target = drawn(2, 5, 4), drawn(2, 5, 4, seed=1)
    one_way = [2 - 2 * cosine(predicted[0, i], target[1, i]) for i in range(5)]
    back = [2 - 2 * cosine(predicted[1, i], target[0, i]) for i in range(5)]
    assert float(losses.byol_distance(predicted, target)) == pytest.approx((sum(one_way) + sum(back)) / 5, rel=1e-12)


def test_info_nce_is_the_papers() -> None:
    queries, keys, queue = drawn(3, 4), drawn(3, 4, seed=1), drawn(7, 4, seed=2)
    is_own = torch.zeros(3, 7, dtype=torch.bool)
    is_own[1, 2] = is_own[2, 6] = True
    terms = []
    for query, key, left_out in zip(queries, keys, is_own, strict=True):
        own = math.exp(cosine(query, key) / 0.2)
        negatives = [math.exp(cosine(query, other) / 0.2) for other in queue[~left_out]]
        terms.append(-math.log(own / (own + sum(negatives))))
    assert float(losses.info_nce(queries, keys, queue, is_own, 0.2)) == pytest.approx(sum(terms) / 3, rel=1e-12)


def test_measures_of_collapse() -> None:
    alike = torch.ones(8, 4, dtype=torch.float64)
    assert losses.spread(alike) == pytest.approx(0, abs=1e-12)
    assert losses.rank(alike) == 0
    directions = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    assert losses.spread(directions) == pytest.approx(1)
    assert losses.rank(directions) == pytest.approx(4)
    assert losses.rank(directions[:, :1] * torch.ones(1, 4)) == pytest.approx(1)
    assert losses.entropy(torch.tensor([[0.25] * 4, [1.0, 0, 0, 0]])).tolist() == pytest.approx([1, 0])


def test_region_matching_is_the_papers() -> None:
    """Li et al. 2022, section 3.2: each region learns the answer for the region with the largest cosine."""
    student, teacher, center = drawn(2, 5, 6), drawn(2, 3, 6, seed=1), drawn(6, seed=2)
    own, other = drawn(2, 5, 4, seed=3), drawn(2, 3, 4, seed=4)
    terms = []
    for sample in range(2):
        for region in range(5):
            match = max(range(3), key=lambda j: cosine(own[sample, region], other[sample, j]))
            target = functional.softmax((teacher[sample, match] - center) / 0.04, 0)
            answer = functional.softmax(student[sample, region] / 0.1, 0)
            terms.append(-sum(float(t) * math.log(float(s)) for t, s in zip(target, answer, strict=True)))
    loss = losses.region_cross_entropy(student, teacher, own, other, center, 0.1, 0.04)
    assert float(loss) == pytest.approx(sum(terms) / 10, rel=1e-12)


def test_noise_contrastive_is_the_papers() -> None:
    """Misra and van der Maaten 2020, section 3: −log h of the own memory, and −log(1 − h) of each other memory."""
    outputs = drawn(3, 4)
    positives, negatives = (
        functional.normalize(rows, dim=-1) for rows in (drawn(3, 4, seed=1), drawn(3, 5, 4, seed=2))
    )
    negatives[1, 2] = 0  # left out
    terms = []
    for output, positive, others in zip(outputs, positives, negatives, strict=True):
        kept = [other for other in others if other.any()]
        scores = [math.exp(cosine(output, key) / 0.3) for key in (positive, *kept)]
        h = [score / sum(scores) for score in scores]
        terms.append(-math.log(h[0]) - sum(math.log(1 - share) for share in h[1:]))
    loss = losses.noise_contrastive(outputs, positives, negatives, 0.3)
    assert float(loss) == pytest.approx(sum(terms) / 3, rel=1e-12)


def test_a_negative_that_is_the_output_gives_a_finite_loss() -> None:
    outputs = functional.normalize(drawn(2, 4), dim=-1)
    loss = losses.noise_contrastive(outputs, -outputs, outputs.unsqueeze(1), 0.01)
    assert math.isfinite(float(loss))


def test_tasks_are_weighted_as_in_the_paper() -> None:
    """Kendall et al. 2018: 1/(2σ²) · regression + log σ, and 1/σ² · classification + log σ."""
    sigma_1, sigma_2 = 0.7, 1.9
    log_variances = torch.tensor([2 * math.log(sigma_1), 2 * math.log(sigma_2)], dtype=torch.float64)
    expected = 3 / (2 * sigma_1**2) + math.log(sigma_1) + 5 / sigma_2**2 + math.log(sigma_2)
    tasks = [torch.tensor(3.0).double(), torch.tensor(5.0).double()]
    assert float(losses.weighted_by_uncertainty(tasks, log_variances, (0.5, 1.0))) == pytest.approx(expected)
