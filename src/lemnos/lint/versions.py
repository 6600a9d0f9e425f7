"""Which release of an engine will run: asked for, in an image's tag, pinned or named beside. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Source = Literal["asked", "image", "pinned", "named", "open", "none"]

_NAMES = {"vllm": r"vllm", "sglang": r"sglang", "dynamo": r"(?:ai-)?dynamo"}
_PINNED = r"(?<![\w/.-]){name}(?:\[[\w, -]*\])?\s*==\s*(\d[\w.]*)"
_NAMED = r"(?<![\w/.-]){name}(?:\*\*)?[ _]v?(\d+\.\d+(?:\.\w+)*)"
_OPEN = r"(?<![\w/.-]){name}(?:\[[\w, -]*\])?\s*>=\s*(\d[\w.]*)"
_IMAGES = {
    "vllm": r"vllm-openai:v?(\d[\w.]*)",
    "sglang": r"(?<!-)sglang:v?(\d[\w.]*)",
    "dynamo": r"(?:sglang|vllm)-runtime:v?(\d[\w.]*)",
}


@dataclass(frozen=True)
class Release:
    """A release, and how it is known; ``start``, ``end``: where a text says it."""

    version: str | None
    source: Source
    start: int = 0
    end: int = 0


def release_of(engine: str, asked: str | None, image: str | None, text: str) -> Release:
    """The release that will run ``engine``'s command in a document of this ``text``.

    What the user asks for counts first, then the command's own image, then what the document pins
    (``vllm==0.11.0``), names ("vLLM 0.11.0"), and last what it requires at least
    (``vllm>=0.10.2``). A text that names several releases names none.
    """
    if asked:
        return Release(asked, "asked")
    if image:
        return Release(image, "image")
    family = engine.partition(".")[0]
    name = _NAMES.get(family, re.escape(family))
    sources: tuple[tuple[Source, str], ...] = (
        ("image", _IMAGES.get(family, r"(?!)()")),
        ("pinned", _PINNED.format(name=name)),
        ("named", _NAMED.format(name=name)),
        ("open", _OPEN.format(name=name)),
    )
    for source, pattern in sources:
        found = list(re.finditer(pattern, text, re.IGNORECASE))
        if len({match[1].rstrip(".") for match in found}) == 1:
            first = found[0]
            return Release(first[1].rstrip("."), source, *first.span())
    return Release(None, "none")
