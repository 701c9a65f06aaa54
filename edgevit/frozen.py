"""The base of every record that is written to disk."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of every record that is written to disk. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
