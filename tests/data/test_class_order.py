"""Orders of class folders are timm's and torchvision's own; where the two differ, positions are never assumed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data.readers.reader_image_folder import find_images_and_targets
from torchvision.datasets import DatasetFolder

from edgevit.artifacts import IOSpec, Preprocess, numbers
from edgevit.data.class_order import in_order, output_indices, possible_orders
from edgevit.errors import DataError

RULE = Preprocess(height=8, width=8)
NUMBERED = tuple(sorted(f"class{index}" for index in range(1, 13)))
FOLDERS = st.lists(
    st.text("aAbB019 _-é", min_size=1, max_size=6).filter(lambda name: name == name.strip()),
    min_size=2,
    max_size=12,
    unique_by=lambda name: [int(part) if part.isdigit() else part for part in _parts(name)].__repr__(),
)


def _parts(name: str) -> list[str]:
    import re

    return re.split(r"(\d+)", name.lower())


@settings(max_examples=60)
@given(FOLDERS)
def test_orders_are_those_of_timm_and_torchvision(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("folders")
    for name in names:
        (root / name).mkdir()
        (root / name / "0.png").touch()
    _, timms = find_images_and_targets(str(root))
    torchvisions, _ = DatasetFolder.find_classes(None, str(root))
    assert in_order(names, "natural") == tuple(timms)
    assert in_order(names, "text") == tuple(torchvisions)


def unnamed(count: int) -> IOSpec:
    return IOSpec.for_classifier(RULE, numbers(count))


@given(st.integers(2, 40), st.data())
def test_positions_are_taken_only_where_both_orders_give_them(count, data):
    folders = data.draw(st.lists(st.sampled_from(numbers(count)), min_size=1, unique=True).map(sorted))
    natural = [int(name) for name in folders]
    text = [sorted(numbers(count)).index(name) for name in folders]
    if natural == text:
        assert output_indices(unnamed(count), folders, "data") == natural
    else:
        with pytest.raises(DataError, match="the order of the model's classes is not known"):
            output_indices(unnamed(count), folders, "data")


def test_the_error_shows_where_the_orders_part():
    with pytest.raises(DataError) as caught:
        output_indices(unnamed(12), NUMBERED, "photos")
    said = str(caught.value)
    assert "natural (timm) class1, class2, class3" in said
    assert "text (torchvision) class1, class10, class11" in said
    assert "--class-order" in said


@given(st.permutations(NUMBERED))
def test_named_classes_are_matched_by_name_whatever_their_order(names):
    spec = IOSpec.for_classifier(RULE, tuple(names))
    places = output_indices(spec, NUMBERED, "photos")
    assert places is not None
    assert [names[place] for place in places] == list(NUMBERED)


@pytest.mark.parametrize("count", [3, 12])
def test_numbers_that_were_given_as_names_are_names(count):
    spec = unnamed(count).calling_its_classes(numbers(count))
    assert spec.names_its_classes
    assert IOSpec.model_validate_json(spec.model_dump_json()) == spec
    assert output_indices(spec, sorted(numbers(count)), "data") == [int(name) for name in sorted(numbers(count))]
    with_words = [f"word {index}" for index in range(count)]
    assert output_indices(spec, with_words, "data") is None


def test_an_iospec_without_the_mark_is_written_as_before():
    assert "numbers_are_names" not in unnamed(3).model_dump_json()


def test_an_order_that_a_data_set_declares_is_its_own():
    declared = numbers(12)  # as a file of labels has them, and no listing of folders
    assert possible_orders(declared) == {}
    assert output_indices(unnamed(12), declared, "npz") == list(range(12))


def test_names_of_a_model_are_composed() -> None:
    assert unnamed(1).calling_its_classes(("cafe\u0301",)).classes == ("caf\u00e9",)
