"""A batch is a function of the seed and the step, whoever makes it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgevit.configs import Augmentation, ViewSpec
from edgevit.errors import DataError, RecipeError
from edgevit.training.loop.batches import Batch, Batches, TrainingStream, batch_shares, worker_death_as_data_error
from tests.learning import blobs, tiny_vit

CANVAS = tiny_vit().preprocess
MIXING = Augmentation(mixup=0.8, cutmix=1.0)


def batches(
    augmentation: Augmentation | None = MIXING,
    epochs: int = 3,
    part: int = 0,
    parts: int = 1,
    views: Sequence[ViewSpec] = (),
) -> Batches:
    streams = [TrainingStream(blobs(per_class=3), 0.6), TrainingStream(blobs("blobs.pool", 5, labelled=False), 0.4)]
    return Batches(streams, CANVAS, augmentation, 5, epochs, seed=4, part=part, parts=parts, views=views)


def same(ours: Batch, theirs: Batch) -> bool:
    pairs = zip((*ours.views, *ours[1:]), (*theirs.views, *theirs[1:]), strict=True)
    return all(
        torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right  # type: ignore[arg-type]
        for left, right in pairs
    )


@pytest.mark.parametrize("augmentation", [None, Augmentation(repeats=2), MIXING])
@pytest.mark.parametrize("parts", [2, 3])
def test_each_rank_makes_its_part_of_the_whole_batch(parts: int, augmentation: Augmentation | None) -> None:
    whole = batches(augmentation)
    for part in range(parts):
        ours = batches(augmentation, part=part, parts=parts)
        for step in range(len(whole)):
            assert same(ours[step], whole[step].part(part, parts))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    expected = list(batches().load(0, workers=0))
    for ours, theirs in zip(expected, batches().load(0, workers=workers), strict=True):
        assert same(ours, theirs)


def test_batches_after_a_step_do_not_depend_on_those_before_it() -> None:
    expected = list(batches().load(0, workers=0))[4:]
    for ours, theirs in zip(expected, batches().load(4, workers=0), strict=True):
        assert same(ours, theirs)


def test_each_stream_is_seen_once_in_each_of_its_passes() -> None:
    made = list(batches(None).load(0, workers=0))
    first = torch.cat([batch.samples[batch.streams == 0] for batch in made])
    assert len(made) == 9  # 3 passes over 9 samples, 3 of them in each batch
    for start in (0, 9, 18):
        assert sorted(first[start : start + 9].tolist()) == list(range(9))
    second = torch.cat([batch.samples[batch.streams == 1] for batch in made])
    assert sorted(second[:15].tolist()) == list(range(15))


def test_labels_of_the_pool_are_hidden() -> None:
    for batch in batches(None).load(0, workers=0):
        assert (batch.labels[batch.streams == 1] == -1).all()
        assert (batch.labels[batch.streams == 0] >= 0).all()


def test_views_of_a_sample_differ_from_pass_to_pass() -> None:
    made = list(batches(Augmentation()).load(0, workers=0))
    views = [batch.views[0][i] for batch in made for i in range(5) if batch.streams[i] == 0 and batch.samples[i] == 2]
    assert len(views) == 3
    assert not torch.equal(views[0], views[1])


def test_mixup_is_the_mixture_that_it_says() -> None:
    plain = batches(Augmentation())[2].views[0].float()
    mixed = batches(Augmentation(mixup=0.8))[2]
    share = mixed.own_share.view(-1, 1, 1, 1)
    torch.testing.assert_close(mixed.views[0], share * plain + (1 - share) * plain[mixed.partners])
    assert 0 < mixed.own_share[0] < 1
    assert torch.equal(mixed.streams, mixed.streams[mixed.partners])


def test_cutmix_share_is_the_share_of_pixels() -> None:
    for step in range(9):
        plain, mixed = batches(Augmentation())[step].views[0].float(), batches(Augmentation(cutmix=1.0))[step]
        for i, partner in enumerate(mixed.partners.tolist()):
            own = (mixed.views[0][i] == plain[i]).all(-1)
            theirs = (mixed.views[0][i] == plain[partner]).all(-1)
            assert (own | theirs).all()
            if partner != i:
                assert float(mixed.own_share[i]) <= float(own.float().mean()) + 1e-6


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=4), st.integers(4, 256))
def test_shares_fill_the_batch(shares: list[float], batch_size: int) -> None:
    counts = batch_shares(shares, batch_size)
    assert sum(counts) == batch_size
    assert min(counts) >= 1
    exact = np.array(shares) / sum(shares) * batch_size
    assert np.all(np.abs(np.array(counts) - exact) < len(shares))


def test_batch_too_small_for_its_streams_is_refused() -> None:
    with pytest.raises(RecipeError, match="too small"):
        batch_shares([0.5, 0.3, 0.2], 2)


def test_empty_stream_is_refused() -> None:
    with pytest.raises(DataError, match="no image"):
        Batches([TrainingStream(blobs(per_class=0))], CANVAS, None, 4, 1, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_error_of_a_worker_reaches_the_caller_as_it_is(workers: int) -> None:
    with pytest.raises(RecipeError) as expected:
        batches(Augmentation(auto_augment="no-such-policy"))[0]
    with pytest.raises(RecipeError) as caught:
        next(batches(Augmentation(auto_augment="no-such-policy")).load(0, workers))
    assert str(caught.value) == str(expected.value)


def test_repeated_samples_stand_together_in_views_of_their_own() -> None:
    repeated = Batches([TrainingStream(blobs(per_class=3))], CANVAS, Augmentation(repeats=3), 9, 3, seed=4)
    assert len(repeated) == 3  # an epoch stays as many images as there are
    seen = []
    for batch in repeated.load(0, workers=0):
        for first in (0, 3, 6):
            assert len(set(batch.samples[first : first + 3].tolist())) == 1
            assert not torch.equal(batch.views[0][first], batch.views[0][first + 1])
            seen.append(int(batch.samples[first]))
    assert sorted(seen) == list(range(9))


def test_first_of_the_repeats_is_the_view_that_would_stand_alone() -> None:
    alone = Batches([TrainingStream(blobs(per_class=3))], CANVAS, Augmentation(), 3, 3, seed=4)[0]
    repeated = Batches([TrainingStream(blobs(per_class=3))], CANVAS, Augmentation(repeats=2), 6, 3, seed=4)[0]
    assert torch.equal(alone.views[0], repeated.views[0][::2])


def test_some_batches_are_mixed_where_so_many_should_be() -> None:
    half = batches(Augmentation(mixup=0.8, mix_probability=0.5), epochs=15)
    mixed = [bool((batch.own_share < 1).any()) for batch in half.load(0, workers=0)]
    assert 0.3 < sum(mixed) / len(mixed) < 0.7


def test_parts_hold_every_sample_once_and_each_its_share_of_every_stream() -> None:
    batch = batches()[1]
    parts = [batch.part(number, 2) for number in range(2)]
    assert sorted(torch.cat([part.rows for part in parts]).tolist()) == list(range(5))
    assert all(set(part.streams.tolist()) == {0, 1} for part in parts)
    for part in parts:
        assert torch.equal(part.partner_labels, batch.labels[part.partners])
        assert torch.equal(part.views[0], batch.views[0][part.rows])


def test_batch_says_how_much_of_the_training_is_behind() -> None:
    made = list(batches().load(0, workers=0))
    assert [batch.step for batch in made] == list(range(9))
    assert made[3].done == pytest.approx(3 / 9)


class DyingImages:
    """Images whose process is killed while it reads them, as the kernel does when memory runs out."""

    def content(self, index: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def test_killed_loader_process_is_an_error_that_says_so() -> None:
    dataset = replace(blobs(), images=DyingImages())  # type: ignore[arg-type]
    dying = Batches([TrainingStream(dataset)], CANVAS, None, 4, 1, seed=0)
    with pytest.raises(DataError, match="a process that loads images died") as caught, worker_death_as_data_error(1):
        list(dying.load(0, workers=1))
    assert "--workers" in str(caught.value.next)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. \n"),
        RuntimeError("received 0 items of ancdata"),
        ConnectionResetError(104, "Connection reset by peer"),
        FileNotFoundError(2, "No such file or directory"),
        EOFError(),
    ],
    ids=repr,
)
def test_each_sign_of_a_dead_worker_is_known(error: Exception) -> None:
    with pytest.raises(DataError, match="a process that loads images died"), worker_death_as_data_error(1):
        raise error


@pytest.mark.parametrize(
    ("workers", "error"),
    [
        (0, EOFError()),
        (1, FileNotFoundError(2, "No such file or directory", "metrics.jsonl")),
        (1, BrokenPipeError(32, "Broken pipe")),
        (1, RuntimeError("a bug")),
    ],
    ids=repr,
)
def test_other_errors_stay_as_they_are(workers: int, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, worker_death_as_data_error(workers):
        raise error
    assert caught.value is error


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 1])
def test_pinned_batches_are_the_same(workers: int) -> None:
    made = list(batches().load(0, workers, pinned=True))
    for ours, theirs in zip(batches().load(0, workers=0), made, strict=True):
        assert same(ours, theirs)
        assert all(one.is_pinned() for one in theirs if isinstance(one, torch.Tensor))


def test_views_of_a_row_are_draws_of_their_own_and_the_first_is_as_without_views() -> None:
    augmentation = Augmentation(scale=(0.5, 0.6))
    specs = [ViewSpec(count=2, scale=(0.5, 0.6)), ViewSpec(count=1, size=8, scale=(0.1, 0.2))]
    alone, several = batches(augmentation), batches(augmentation, views=specs)
    for step in range(3):
        first, second, small = several[step].views
        assert torch.equal(first, alone[step].views[0])
        assert not torch.equal(first, second)
        assert small.shape == (len(first), 8, 8, 3)
        assert torch.equal(several[step].labels, alone[step].labels)
    part = batches(augmentation, views=specs, part=1, parts=2)[0]
    assert all(torch.equal(ours, whole[1::2]) for ours, whole in zip(part.views, several[0].views, strict=True))
