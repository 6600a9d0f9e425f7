"""What shell text is read into: pieces of words, words, assignments, redirections, commands."""

from __future__ import annotations

from dataclasses import dataclass, field

from lemnos.lint.words import Word


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a word: literal text, a variable, or what only a shell can compute.

    ``kind``: "text", "variable" (``name``; ``default`` where it is unset), "array"
    (``"${name[@]}"``), "opaque". ``[start, end)`` is where it is written; ``at`` and ``to``
    where each character of literal text is.
    """

    kind: str
    text: str
    start: int
    end: int
    quoted: bool = False
    at: tuple[int, ...] = ()
    to: tuple[int, ...] = ()
    default: tuple[Piece, ...] | None = None

    @property
    def name(self) -> str:
        """The variable's name; "" for other kinds."""
        return "" if self.kind in ("text", "opaque") else self.text


@dataclass(frozen=True, slots=True)
class RawWord:
    """A word before variables are put in."""

    pieces: tuple[Piece, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """``NAME=value``, ``NAME+=value``, ``NAME=(a b)``."""

    name: str
    value: RawWord | None
    items: tuple[RawWord, ...] | None
    append: bool
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Redirect:
    """``> file``; ``body`` is a heredoc's text."""

    operator: str
    target: RawWord | None
    start: int
    end: int
    body: Word | None = None


@dataclass
class Simple:
    """One simple command. ``after`` is what ended it: ``\n``, ``;``, ``&&``, ``)``, "end"."""

    words: list[RawWord] = field(default_factory=list)
    assignments: list[Assignment] = field(default_factory=list)
    redirects: list[Redirect] = field(default_factory=list)
    after: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with the text itself at ``[start, end)``; ``code`` is a rule's name.

    ``replace`` is what should be written there, None where that cannot be said. ``comment``
    stands in the way of the command that begins at ``command``.
    """

    code: str
    start: int
    end: int
    replace: str | None = None
    comment: str = ""
    command: int = 0


@dataclass
class Script:
    """What was read: commands (those of ``$(...)`` too), troubles, and ``<PLACEHOLDERS>``."""

    commands: list[Simple] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    placeholders: list[tuple[int, int]] = field(default_factory=list)
