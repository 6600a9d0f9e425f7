"""What kind of text a document is, and the commands in it: scripts, batch files, manifests, prose. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from lemnos.lint.batch import Gpus, batch_gpus
from lemnos.lint.find import INSIDE, Reading, search
from lemnos.lint.words import Word, plain

Kind = Literal["command", "script", "manifest", "prose"]

_SCRIPTS = (".sh", ".bash", ".zsh", ".sbatch", ".slurm", ".pbs", ".job", ".sub")
_FENCE = re.compile(r"^[ \t>]*(`{3,}|~{3,})[ \t]*([\w+.-]*)[^\n]*\n", re.MULTILINE)
_SHELLS = {
    "bash",
    "sh",
    "shell",
    "console",
    "zsh",
    "shell-session",
    "terminal",
    "slurm",
}
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_WORTH = re.compile(
    INSIDE.pattern + r"|\bray\s+(?:exec|start|dashboard)|\bpip3?\s+install|\bcurl\s"
    r"|\bhuggingface-cli\b|\bhf\s+download|\bdocker\s+run|\bNCCL_\w+=|^\s*--[a-z]"
)
_ENDS_PROSE = (".md", ".markdown", ".txt", ".rst")


@dataclass
class Document:
    """A text with what was found in it.

    ``loose`` are flags that prose names by themselves (``--tp <N>``). ``gpus`` is what a batch
    file asks for.
    """

    kind: Kind
    text: str
    reading: Reading
    loose: list[Word] = field(default_factory=list)
    gpus: Gpus | None = None
    settings: list[tuple[str, Word]] = field(default_factory=list)
    """``nccl:`` sections of YAML: a variable's name and its value."""
    trouble: tuple[str, int] | None = None
    """A sentence where the text is not what it says, and its place."""


def kind_of(name: str, text: str) -> Kind:
    """By the file's name, else by what is in it."""
    low = name.lower()
    if low.endswith(_SCRIPTS) or text.startswith("#!"):
        return "script"
    if low.endswith((".yaml", ".yml", ".json")):
        return "manifest"
    if low.endswith(_ENDS_PROSE):
        prose = _FENCE.search(text) or re.search(r"^#{1,6} \S", text, re.MULTILINE)
        return "prose" if prose else "script"
    if re.search(r"^(apiVersion|services|kind):", text, re.MULTILINE):
        return "manifest"
    return "prose" if _FENCE.search(text) else "script"


def read_document(text: str, kind: Kind) -> Document:
    """Find what ``text`` starts; places are those of ``text``."""
    if kind == "prose":
        return _prose(text)
    if kind == "manifest":
        from lemnos.lint.manifests import read_manifest  # slow to import: YAML

        found = read_manifest(text)
        return Document(
            kind, text, found.reading, settings=found.settings, trouble=found.trouble
        )
    reading = search(plain(text))
    return Document(kind, text, reading, gpus=batch_gpus(text))


def _prose(text: str) -> Document:
    document = Document("prose", text, Reading())
    pieces: list[tuple[int, Reading]] = []
    outside: list[tuple[int, int]] = []
    place = 0
    for start, stop, language in _blocks(text):
        outside.append((place, start))
        place = stop
        body = plain(text[start:stop], start)
        if language in _SHELLS or (not language and _WORTH.search(body.text)):
            pieces.append((start, search(body)))
        elif language in ("yaml", "yml"):
            from lemnos.lint.manifests import read_manifest

            found = read_manifest(body.text, start)
            pieces.append((start, found.reading))
            document.settings += found.settings
    outside.append((place, len(text)))
    for start, stop in outside:
        for span in _INLINE.finditer(text, start, stop):
            word = plain(span[1], span.start(1))
            if span[1].startswith("--"):
                document.loose.append(word)
            elif _WORTH.search(span[1]):
                pieces.append((span.start(), search(word)))
    for _, reading in sorted(pieces, key=lambda one: one[0]):
        document.reading.add(reading)
    return document


def _blocks(text: str) -> list[tuple[int, int, str]]:
    """(start, end, language) of each fenced block's inside."""
    blocks = []
    place = 0
    while opened := _FENCE.search(text, place):
        fence = re.escape(opened[1]) + re.escape(opened[1][0]) + "*"
        closed = re.compile(rf"^[ \t>]*{fence}[ \t]*$", re.MULTILINE).search(
            text, opened.end()
        )
        stop = closed.start() if closed else len(text)
        blocks.append((opened.end(), stop, opened[2].lower()))
        place = closed.end() if closed else len(text)
    return blocks
