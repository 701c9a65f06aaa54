"""Teachers that differ from their student in size, normalization and classes; data sets that fit together."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.configs import (
    Augmentation,
    CrossEntropy,
    DecoupledDistillation,
    Distill,
    FeatureDistillation,
    HardDistillation,
    Objective,
    SoftDistillation,
)
from edgevit.context import Context
from edgevit.data.transforms import normalize
from edgevit.errors import RecipeError, TrainingError
from edgevit.models import create_model
from edgevit.progress import SilentProgress
from edgevit.training.distillation.teacher_from_config import ConfiguredTeacher
from edgevit.training.distillation.teachers import LiveTeacher, PlainTeacher, matching_columns
from edgevit.training.loop.batches import Batches, TrainingStream
from edgevit.training.loop.streams import distillation_streams, labelled_stream, student_classes, validation_set
from tests.learning import TINY_VIT, blobs, published_checkpoint, tiny_token_vit, tiny_vit


def test_teacher_sees_the_students_canvas_in_its_own_size_and_normalization() -> None:
    built = create_model("vit_tiny_patch16_224", 3, 32, TINY_VIT)
    preprocess = Preprocess(height=32, width=32, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    teacher = LiveTeacher(
        built.module, IOSpec.for_classifier(preprocess, ("c", "a", "b")), ("a", "b", "c"), torch.device("cpu")
    )
    batch = Batches([TrainingStream(blobs())], tiny_vit().preprocess, None, 4, 1, 0)[0]
    assert batch.views[0].shape == (4, 16, 16, 3)
    expected = built.module(normalize(batch.views[0], preprocess))[:, [1, 2, 0]]
    assert torch.equal(teacher(batch).logits, expected)
    assert not teacher(batch).logits.requires_grad
    assert not any(parameter.requires_grad for parameter in built.module.parameters())


def test_plain_teacher_says_of_every_view_what_a_live_one_says_of_the_plain_image(tmp_path: Path) -> None:
    built, pool, support = tiny_vit(seed=3), blobs("p", labelled=False, seed=1), blobs("s", seed=2)
    io, cpu, wanted = IOSpec.for_classifier(built.preprocess, ("c", "a", "b")), torch.device("cpu"), ("a", "b", "c")
    live = LiveTeacher(built.module, io, wanted, cpu, {1: ["pooled"]})
    teacher = PlainTeacher(built.module, io, wanted, cpu, [pool, support], [1], tmp_path, SilentProgress())
    streams = [TrainingStream(pool, 0.5, labelled=False), TrainingStream(support, 0.5)]
    plain = Batches(streams, built.preprocess, None, 7, 1, seed=4)[2]
    views = Batches(streams, built.preprocess, Augmentation(scale=(0.2, 0.5)), 7, 1, seed=4)[2]
    assert torch.equal(plain.samples, views.samples)
    assert not torch.equal(plain.views[0], views.views[0])
    expected = live(plain)
    for answer in (teacher(plain), teacher(views)):
        assert answer.logits is not None
        assert torch.allclose(answer.logits, expected.logits, atol=1e-5)
        assert torch.allclose(answer.features[1][0], expected.features[1][0], atol=1e-5)
        assert not answer.logits.requires_grad
    assert teacher.channels == live.channels


def test_plain_teacher_mixes_features_in_the_shares_of_the_images(tmp_path: Path) -> None:
    built, pool, support = tiny_vit(seed=3), blobs("p", labelled=False, seed=1), blobs("s", seed=2)
    io, cpu, classes = IOSpec.for_classifier(built.preprocess, ("a", "b", "c")), torch.device("cpu"), ("a", "b", "c")
    live = LiveTeacher(built.module, io, classes, cpu, {0: ["pooled"]})
    teacher = PlainTeacher(built.module, io, classes, cpu, [pool, support], [0], tmp_path, SilentProgress())
    streams = [TrainingStream(pool, 0.5, labelled=False), TrainingStream(support, 0.5)]
    mixed = Batches(streams, built.preprocess, Augmentation(scale=(1, 1), cutmix=1.0), 8, 1, seed=4)[2]
    answer, plain = teacher(mixed), live(Batches(streams, built.preprocess, None, 8, 1, seed=4)[2])
    share, (features,) = mixed.own_share.unsqueeze(1), plain.features[0]
    assert 0.05 < share[0] < 0.95
    expected = share * features + (1 - share) * features[mixed.partners]
    torch.testing.assert_close(answer.features[0][0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(answer.logits, built.module.get_classifier()(expected), atol=1e-5, rtol=0)
    for number in range(2):
        (part,) = teacher(mixed.part(number, 2)).features[0]
        torch.testing.assert_close(part, expected[number::2], atol=1e-5, rtol=0)


def test_plain_teacher_of_features_alone_needs_no_classes_of_the_student(tmp_path: Path) -> None:
    built, data = tiny_vit(), blobs(classes=2)
    io = IOSpec.for_classifier(built.preprocess, ("x", "y", "z"))
    teacher = PlainTeacher(built.module, io, None, torch.device("cpu"), [data], [0], tmp_path, SilentProgress())
    assert teacher(Batches([TrainingStream(data)], built.preprocess, None, 4, 1, seed=0)[0]).logits is None


def test_plain_teacher_with_two_classifiers_is_refused(tmp_path: Path) -> None:
    built = tiny_token_vit()
    io = IOSpec.for_classifier(built.preprocess, ("a", "b", "c"))
    with pytest.raises(RecipeError, match="this teacher has two"):
        PlainTeacher(built.module, io, None, torch.device("cpu"), [blobs()], [0], tmp_path, SilentProgress())


def test_classes_are_matched_by_name() -> None:
    assert matching_columns(
        IOSpec.for_classifier(Preprocess(height=8, width=8), ("x", "b", "a")), ("a", "b")
    ).tolist() == [2, 1]


def test_teacher_without_the_students_classes_is_refused_by_name() -> None:
    with pytest.raises(RecipeError) as caught:
        matching_columns(IOSpec.for_classifier(Preprocess(height=8, width=8), ("cat", "dog")), ("dog", "7"))
    assert "1 of the student's 2 classes" in str(caught.value)
    assert "missing: 7" in str(caught.value)
    assert "cat, dog" in str(caught.value)


def test_labels_count_only_where_classes_are_the_students() -> None:
    pool, support, other = blobs("p", labelled=False), blobs("s"), blobs("o", classes=4)
    classes = student_classes([pool, support, other], ("a", "b", "c"), [HardDistillation()])
    assert classes == ("a", "b", "c")
    streams = distillation_streams([pool, support, other], [0.5, 0.25, 0.25], classes, [HardDistillation()])
    assert [stream.labelled for stream in streams] == [False, True, False]
    assert student_classes([pool], ("x", "y"), [HardDistillation()]) == ("x", "y")


def test_a_foreign_data_set_with_labels_in_first_place_lends_its_images_alone() -> None:
    elsewhere, support = blobs("o", classes=4), blobs("s")
    known = ("a", "b", "c")
    both: list[Objective] = [SoftDistillation(), FeatureDistillation(), CrossEntropy()]
    classes = student_classes([elsewhere, support], known, both)
    assert classes == known
    streams = distillation_streams([elsewhere, support], [0.9, 0.1], classes, both)
    assert [stream.labelled for stream in streams] == [False, True]
    assert student_classes([elsewhere], known, [SoftDistillation()]) == known
    assert student_classes([elsewhere], ("x", "y"), [SoftDistillation(), CrossEntropy()]) == elsewhere.classes


def test_where_no_term_reads_labels_none_is_shown() -> None:
    data = blobs()
    for term, shown in ((FeatureDistillation(), False), (FeatureDistillation(samples="labelled"), True)):
        classes = student_classes([data], ("x", "y"), [term])
        assert classes == data.classes
        (stream,) = distillation_streams([data], [1.0], classes, [term])
        assert stream.labelled == shown


def test_cross_entropy_without_any_label_is_refused() -> None:
    with pytest.raises(RecipeError, match="cross_entropy applies to labelled"):
        distillation_streams([blobs(labelled=False)], [1.0], ("a", "b", "c"), [CrossEntropy()])


@pytest.mark.parametrize(
    ("term", "labelled", "needs"),
    [
        (DecoupledDistillation(), False, "dkd applies to labelled"),
        (SoftDistillation(samples="labelled"), False, "soft applies to labelled"),
        (SoftDistillation(samples="unlabelled"), True, "soft applies to unlabelled"),
    ],
)
def test_term_that_no_stream_can_feed_is_refused(term: Objective, labelled: bool, needs: str) -> None:
    with pytest.raises(RecipeError, match=needs):
        distillation_streams([blobs(labelled=labelled)], [1.0], ("a", "b", "c"), [term])


def test_labels_in_another_order_of_classes_keep_their_meaning() -> None:
    plain = blobs()
    (stream,) = distillation_streams([plain], [1.0], ("c", "x", "a", "b"), [CrossEntropy()])
    assert stream.labelled
    assert [("c", "x", "a", "b")[label] for label in stream.dataset.labels] == [
        plain.classes[label] for label in plain.labels
    ]


def test_training_needs_labels_and_two_classes() -> None:
    with pytest.raises(RecipeError, match="needs labels"):
        labelled_stream(blobs(labelled=False))
    with pytest.raises(RecipeError, match="single class"):
        labelled_stream(blobs(classes=1))


def test_validation_set_of_other_classes_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot validate"):
        validation_set(blobs(classes=3), ("a", "b"))
    assert validation_set(None, ("a",)) is None


def test_validation_labels_in_another_order_of_classes_keep_their_meaning() -> None:
    plain, aligned = blobs(classes=2), validation_set(blobs(classes=2), ("b", "a"))
    assert aligned is not None
    assert aligned.labels.tolist() == (1 - plain.labels).tolist()


def test_a_teacher_that_answers_no_numbers_is_named_before_it_teaches(tmp_path: Path) -> None:
    built, pool = tiny_vit(), blobs(labelled=False)
    torch.nn.init.constant_(built.module.head.bias, math.nan)  # type: ignore[arg-type]
    artifact = published_checkpoint(tmp_path, built, ("a", "b", "c"))
    fields = {"stage": "distill", "id": "d", "model": "x", "teacher": "t", "streams": [{"data": "p"}]}
    config = Distill.model_validate(fields)
    given: Any = ([artifact], [], [pool], ("a", "b", "c"), built.preprocess, Context(work=tmp_path))
    batch = Batches([TrainingStream(pool, 1.0, labelled=False)], built.preprocess, None, 4, 1, seed=0)[0]
    with pytest.raises(TrainingError, match="the teacher's logits are not numbers"):
        ConfiguredTeacher(config, *given)(batch)
