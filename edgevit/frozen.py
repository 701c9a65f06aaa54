"""The base of every record that is written to disk, and what it says of a value that it refuses."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class Frozen(BaseModel):
    """Base of every record that is written to disk. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def first_problem(error: ValidationError) -> str:
    """The first value that a record refuses, for errors: its place, with dots, and the reason."""
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
