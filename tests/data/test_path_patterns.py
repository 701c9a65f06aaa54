"""Patterns of `include` and `exclude`."""

import pytest

from edgevit.data.path_patterns import matches_any


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("*_mask.png", ("a_mask.png", "x/y/a_mask.png"), ("a_mask.jpg", "a_mask.png.txt")),
        ("rejected", ("rejected/a.png", "x/rejected/y/a.png"), ("rejected2/a.png", "x/notrejected/a.png")),
        ("rejected/", ("rejected/a.png", "x/rejected/a.png"), ("rejected2/a.png",)),
        ("/rejected", ("rejected/a.png",), ("x/rejected/a.png",)),
        ("*/Imgs/*.jpg", ("a/Imgs/0.jpg",), ("Imgs/0.jpg", "train/a/Imgs/0.jpg", "a/Imgs/0.png", "a/Imgs/b/0.jpg")),
        ("**/Imgs/*.jpg", ("Imgs/0.jpg", "a/Imgs/0.jpg", "train/a/Imgs/0.jpg"), ("a/Imgs/0.png",)),
        ("train/**", ("train/a/0.jpg",), ("test/train/0.jpg",)),
        ("00?.[jp]*", ("a/001.jpg", "a/00x.png"), ("a/0011.jpg", "a/001.tif")),
        ("[!a]*", ("b.png",), ("a.png",)),
        ("[z-a]", (), ("z", "a")),
        ("A", ("A/0.jpg",), ("a/0.jpg",)),
    ],
)
def test_what_a_pattern_matches(pattern: str, matching: tuple[str, ...], other: tuple[str, ...]):
    assert [path for path in (*matching, *other) if matches_any(path, [pattern])] == list(matching)


def test_many_any_folders_take_no_time():
    assert not matches_any("a/" * 40 + "b", ["/".join(["**"] * 20 + ["c"])])
