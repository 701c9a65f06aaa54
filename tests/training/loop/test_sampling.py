"""Balanced sampling: classes come equally often, whoever asks and in which order."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgevit.configs import Augmentation
from edgevit.context import Context
from edgevit.data import epoch_order
from edgevit.errors import DataError, RecipeError
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.loop.batches import Batches, TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.loop.sampling import ClassBalanced, Shuffled
from edgevit.training.loop.streams import class_counts, sampled
from edgevit.training.objectives import label_objective
from tests.learning import Killed, blobs, killed_in, tiny_vit, train_config, unbalanced_blobs

CANVAS = tiny_vit().preprocess
MIXED = Augmentation(mixup=0.8, cutmix=1.0)


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    seed=st.integers(0, 99),
    start=st.integers(0, 60),
    length=st.integers(1, 40),
)
def test_no_class_and_no_image_comes_more_often_than_another(
    counts: list[int], seed: int, start: int, length: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    sampler = ClassBalanced(seed, 0, labels, len(counts))
    drawn = [sampler[position] for position in range(start + length)]
    classes = np.bincount(labels[[draw.sample for draw in drawn[start:]]], minlength=len(counts))
    assert classes.max() - classes.min() <= 2
    times = np.bincount([draw.sample for draw in drawn], minlength=len(labels))
    for label in range(len(counts)):
        of_class = times[labels == label]
        assert of_class.max() - of_class.min() <= 1
    assert len(set(drawn)) == len(drawn)  # so no view of an image comes twice


def test_a_position_has_its_sample_whatever_was_asked_before() -> None:
    labels = np.repeat([0, 1, 2], [7, 3, 1])
    in_order = [ClassBalanced(3, 1, labels, 3)[position] for position in range(50)]
    sampler = ClassBalanced(3, 1, labels, 3)
    positions = np.random.default_rng(0).permutation(50).tolist()
    assert [sampler[position] for position in positions] == [in_order[position] for position in positions]
    assert [copy.deepcopy(sampler)[position] for position in range(50)] == in_order
    for other in (ClassBalanced(4, 1, labels, 3), ClassBalanced(3, 2, labels, 3)):
        assert [other[position] for position in range(50)] != in_order


def test_shuffled_passes_are_permutations() -> None:
    sampler = Shuffled(5, 2, 6)
    for its_pass in (1, 0, 2):
        drawn = [sampler[6 * its_pass + place] for place in range(6)]
        assert [draw.sample for draw in drawn] == epoch_order(5, its_pass, 2, 6).tolist()
        assert {draw.its_pass for draw in drawn} == {its_pass}


def balanced_batches(part: int = 0, parts: int = 1, augmentation: Augmentation | None = MIXED) -> Batches:
    streams = [TrainingStream(unbalanced_blobs(), 0.6), TrainingStream(blobs(), 0.4, labelled=False)]
    return Batches(
        sampled(streams, "balanced"), CANVAS, augmentation, batch_size=10, epochs=6, seed=4, part=part, parts=parts
    )


@pytest.mark.parametrize("parts", [2, 3])
def test_ranks_see_the_samples_of_one_process(parts: int) -> None:
    whole = balanced_batches()
    for step in range(len(whole)):
        together = whole[step]
        for part in range(parts):
            batch, expected = balanced_batches(part, parts)[step], together.part(part, parts)
            assert torch.equal(batch.samples, expected.samples)
            assert torch.equal(batch.views[0], expected.views[0])


def test_each_batch_has_each_class_equally_often_in_streams_with_labels() -> None:
    batches = balanced_batches(augmentation=None)
    for batch in batches.load(0, workers=0):
        assert torch.bincount(batch.labels[batch.streams == 0]).tolist() == [2, 2, 2]
    unlabelled = torch.cat([batch.samples[batch.streams == 1] for batch in batches.load(0, workers=0)])
    assert sorted(unlabelled[:24].tolist()) == list(range(24))


def test_an_image_that_comes_twice_in_a_batch_comes_in_two_views() -> None:
    batch = balanced_batches(augmentation=Augmentation(scale=(0.2, 0.5)))[0]
    rare = batch.views[0][(batch.labels == 2) & (batch.streams == 0)]
    assert len(rare) == 2  # of one image
    assert not torch.equal(rare[0], rare[1])


def test_counts_of_several_streams_are_in_the_proportions_of_a_batch() -> None:
    one, two = unbalanced_blobs(), blobs(per_class=4)
    assert class_counts([TrainingStream(one)]).tolist() == [8, 3, 1]
    both = class_counts([TrainingStream(one, 0.25), TrainingStream(two, 0.75), TrainingStream(blobs(), labelled=False)])
    shares = 0.25 * np.array([8, 3, 1]) / 12 + 0.75 / 3
    np.testing.assert_allclose(both, 24 * shares)


def test_sampling_without_labels_or_without_a_class_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"(?s)needs labels.*blobs\.train"):
        sampled([TrainingStream(blobs(labelled=False), labelled=False)], "balanced")
    with pytest.raises(DataError, match=r"(?s)without training images.*got.*c"):
        sampled([TrainingStream(blobs().subset(np.arange(16)))], "balanced")


def trained(folder: Path, killed_at: int = 0) -> nn.Module:
    folder.mkdir(exist_ok=True)
    model, _ = fit(
        ClassifierLearner(tiny_vit(drop_rate=0.1).module, killed_in(killed_at, label_objective(3)), CANVAS),
        sampled([TrainingStream(unbalanced_blobs())], "balanced"),
        train_config(epochs=4),
        Context(work=folder, workers=0),
        out=folder,
        save_every_s=0.0,
    )
    return model


def test_training_that_was_broken_off_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    unbroken = trained(tmp_path / "unbroken").state_dict()
    with pytest.raises(Killed):
        trained(tmp_path / "broken", killed_at=5)
    resumed = trained(tmp_path / "broken").state_dict()
    assert all(torch.equal(weight, resumed[name]) for name, weight in unbroken.items())
