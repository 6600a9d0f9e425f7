"""Words of a command: what they say, and where each character of that is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

UNKNOWN = "\ufffc"
"""Stands in a word's text for what only the machine that runs it knows: ``$MODEL``."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word: ``text`` after quotes and variables, ``[start, end)`` as it is written.

    ``at`` and ``to`` give, for each character of ``text``, where it begins and ends in the
    document: a word that came out of a variable points at the variable's own assignment.
    """

    text: str
    start: int
    end: int
    at: tuple[int, ...]
    to: tuple[int, ...]

    @property
    def known(self) -> bool:
        """Whether all of it is known before it runs."""
        return UNKNOWN not in self.text

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Where characters ``[first, last)`` of the text are written; empty: the word's start."""
        if first >= last or last > len(self.text):
            return (self.start, self.start)
        return (self.at[first], self.to[last - 1])

    def part(self, first: int, last: int) -> Word:
        """Characters ``[first, last)`` as a word of their own."""
        start, end = self.span(first, last)
        return Word(
            self.text[first:last], start, end, self.at[first:last], self.to[first:last]
        )


def plain(text: str, start: int = 0) -> Word:
    """A word that is written as it reads, at ``start``."""
    at = tuple(range(start, start + len(text)))
    return Word(text, start, start + len(text), at, tuple(place + 1 for place in at))


def aligned(value: str, raw: str, start: int) -> Word:
    """``value`` as read from ``raw``, which begins at ``start`` of the document.

    What was left out (quotes, escapes, indentation) is skipped; a folded line's end is a space.
    Characters that are nowhere to be found point where the last one was.
    """
    at: list[int] = []
    place = 0
    for character in value:
        found = place
        while found < len(raw) and not _same(character, raw[found]):
            found += 1
        if found < len(raw):
            place = found + 1
        at.append(
            start + max(0, min(found, len(raw) - 1))
            if found < len(raw)
            else start + max(0, place - 1)
        )
    return Word(value, start, start + len(raw), tuple(at), tuple(one + 1 for one in at))


def _same(character: str, written: str) -> bool:
    return character == written or (character == " " and written == "\n")


def joined(words: Sequence[Word]) -> str:
    """What the words say, for people; unknown parts are ``...``."""
    return " ".join(word.text for word in words).replace(UNKNOWN, "...")
