"""What the sections of a config share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Keys that are not known are refused."""

    model_config = ConfigDict(extra="forbid")


def kind_of(default: str) -> Callable[[Any], Any]:
    """A discriminator of sections: the kind that one is, `default` if it does not say."""

    def kind(section: Any) -> Any:
        return section.get("kind", default) if isinstance(section, dict) else getattr(section, "kind", None)

    return kind
