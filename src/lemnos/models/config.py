"""A model's config.json, read key by key: what is missing or odd is said by name."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lemnos.errors import LemnosError

LIMITS = {"layers": 2_000, "experts": 100_000, "size": 100_000_000}
"""Larger numbers are a damaged file, and would make the planner count for ever."""


@dataclass(frozen=True)
class Config:
    """One JSON object of a config, and where it came from."""

    data: Mapping[str, Any]
    where: str
    prefix: str = ""

    def __contains__(self, key: str) -> bool:
        return self.data.get(key) is not None

    def number(
        self, key: str, default: int | None = None, *, zero: bool = False
    ) -> int:
        """A positive whole number (or zero, where ``zero``); raises LemnosError."""
        value = self.data.get(key)
        if value is None:
            value = default
        if value is None:
            raise self.bad(key, "is missing")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.bad(key, f"is no whole number: {_short(value)}")
        if value < 0 or (value == 0 and not zero):
            raise self.bad(key, f"is {value}")
        limit = next((LIMITS[what] for what in LIMITS if what in key), LIMITS["size"])
        if value > limit:
            raise self.bad(
                key, f"is {_short(value)}, more than any model has ({limit})"
            )
        return value

    def optional(self, key: str) -> int:
        """A whole number, or 0 where the key is missing or null."""
        return self.number(key, 0, zero=True)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.bad(key, f"is neither true nor false: {_short(value)}")
        return value

    def text(self, key: str, default: str = "") -> str:
        value = self.data.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self.bad(key, f"is no text: {_short(value)}")
        return value

    def items(self, key: str) -> list[Any]:
        """A list; empty where the key is missing or null."""
        value = self.data.get(key)
        if value is None:
            return []
        if not isinstance(value, list) or len(value) > 1_000_000:
            raise self.bad(key, f"is no list: {_short(value)}")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts; empty where the key is missing or null."""
        listed = self.items(key)
        if all(isinstance(value, str) for value in listed):
            return listed
        raise self.bad(key, f"is no list of texts: {_short(listed)}")

    def numbers(self, key: str) -> list[int]:
        """A list of whole numbers; empty where the key is missing or null."""
        listed = self.items(key)
        if all(type(value) is int for value in listed):
            return listed
        raise self.bad(key, f"is no list of whole numbers: {_short(listed)}")

    def part(self, key: str) -> Config:
        """An object inside; an empty one where the key is missing or null."""
        value = self.data.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.bad(key, f"is no object: {_short(value)}")
        return Config(value, self.where, f"{self.prefix}{key}.")

    def bad(self, key: str, what: str) -> LemnosError:
        """The error that names ``key`` with its way; ``what`` is wrong with it."""
        return LemnosError(
            f"'{shown(self.prefix + key, 200)}' {what}",
            where=self.where,
            fix="compare it with the model's own config.json on its hub, and download it again",
        )


def shown(value: object, limit: int = 60) -> str:
    """``value`` of a foreign file as text for people: short, and nothing that acts on a terminal."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _short(value: object) -> str:
    return shown(reprlib.repr(value), 40)
