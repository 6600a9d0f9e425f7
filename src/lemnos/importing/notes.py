"""What an import tells besides the specs: nothing of the old configuration is dropped in silence."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from importlib import resources
from typing import Literal

import yaml

from lemnos.engines.vllm import OWNED
from lemnos.errors import near
from lemnos.importing.config import SECTIONS, Section, Written, unknown_keys
from lemnos.spec.base import Value

Kind = Literal["gone", "unknown", "changed", "wrong", "told"]
"""``gone``: has no meaning any more. ``unknown``: nobody knows the key. ``changed``: is kept as
something else. ``wrong``: contradicts another value, or the facts. ``told``: good to know."""


class Note(Value):
    """A sentence about a key."""

    kind: Kind
    key: str
    """``models.llama-4-scout.vram``."""
    line: int
    text: str


def note(written: Written, kind: Kind, text: str, *keys: str) -> Note:
    """A Note with the key's line."""
    return Note(kind=kind, key=".".join(keys), line=written.line(*keys), text=text)


@functools.cache
def reasons() -> Mapping[str, str]:
    """Key -> why it has no meaning any more (``gone.yaml``)."""
    text = resources.files("lemnos.importing").joinpath("gone.yaml").read_text()
    found: dict[str, str] = yaml.safe_load(text)
    return found


def gone_keys(written: Written, *keys: str) -> list[Note]:
    """Notes for the keys below ``keys`` (a section, or a model) that are given and mean nothing."""
    pattern = (keys[0], "*") if keys[0] == "models" else keys
    found = []
    for key, why in reasons().items():
        *section, last = key.split(".")
        if tuple(section) == pattern and written.given(*keys, last):
            found.append(note(written, "gone", why, *keys, last))
    return found


def unknown_notes(
    written: Written, model: str | None = None, known: Collection[str] = ()
) -> list[Note]:
    """Notes for the keys of a model (or of all else) that nobody knows, with the nearest known one.

    ``known``: keys of the section vllm that are flags of vLLM.
    """
    found = []
    for keys, kind in unknown_keys(written.config):
        of = keys[1] if len(keys) > 2 and keys[0] == "models" else None
        handed_over = keys[0] == "vllm" and keys[1] in known
        if of == model and not handed_over:
            found.append(note(written, "unknown", _unknown(keys[-1], kind), *keys))
    return found


def _unknown(key: str, kind: type[Section]) -> str:
    flag = f"--{key.replace('_', '-')}"
    if kind is SECTIONS["vllm"] and flag in OWNED:
        return f"is not taken over, since lemnos sets {flag} itself: {OWNED[flag]}"
    if hint := near(key, list(kind.model_fields), most=1):
        return f"is not known, and not taken over. {hint}"
    places = [name for name, each in SECTIONS.items() if key in each.model_fields]
    if places:
        return f"is not known here, and not taken over: it is a key of {' and '.join(places)}"
    known = ", ".join(kind.model_fields)
    return f"is not known, and not taken over. Known keys: {known}."
