"""What every written or stored value has in common: frozen, and no unknown keys."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from lemnos.errors import near


class Value(BaseModel):
    """A frozen value that refuses unknown keys and suggests the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = list(cls.model_fields)
        for key in data:
            if key in known:
                continue
            hint = near(str(key), known) or f"Known keys: {', '.join(known)}."
            raise PydanticCustomError(
                "unknown_key", "unknown key '{key}'. {hint}", {"key": key, "hint": hint}
            )
        return data
