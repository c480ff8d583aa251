"""What the sections of a config share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid")
