"""Errors say what, where, got, expected, next."""

from __future__ import annotations

import edgevit.errors as errors
from edgevit.errors import CheckFailed, EdgevitError, ParityError, did_you_mean, first_line


def test_an_error_says_all_it_knows() -> None:
    error = EdgevitError("it broke", where="a.yaml:3", got=1, expected=2, next="mend it")
    assert str(error) == "a.yaml:3: it broke\n  got: 1\n  expected: 2\n  next: mend it"
    assert str(EdgevitError("it broke")) == "it broke"


def test_exit_statuses() -> None:
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, EdgevitError):
            assert error.exit_code == (1 if issubclass(error, CheckFailed) else 2)
    assert issubclass(ParityError, CheckFailed)


def test_the_docstring_is_the_tree() -> None:
    named = {one.__name__ for one in vars(errors).values() if isinstance(one, type) and issubclass(one, EdgevitError)}
    assert all(name in (errors.__doc__ or "") for name in named)


def test_did_you_mean() -> None:
    assert did_you_mean("temprature", ["weight", "temperature"]) == "Did you mean 'temperature'?"
    assert did_you_mean("xyz", ["weight"]) is None


def test_the_first_line_of_an_error_says_something() -> None:
    assert first_line(ValueError("\n  \n  no such size.\nStack:")) == "no such size"
    assert first_line(ValueError("...")) == first_line(ValueError()) == "ValueError"
