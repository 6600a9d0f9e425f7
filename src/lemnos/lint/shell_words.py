"""Words of shell text: quotes, variables, substitutions. See ``shell.py`` for what is around them."""

from __future__ import annotations

import re

from lemnos.lint.shell_parts import Piece, RawWord, Script, Simple, Trouble
from lemnos.lint.words import Word

DEPTH = 12
"""How deep ``$(... $(...))`` is followed."""

PLACEHOLDER = re.compile(r"<[A-Za-z][A-Za-z0-9_. -]{0,60}>(?![>&])")
"""``<NODE0_IP>``, which documents write for what the reader is to fill in."""

ENDS_EARLY = re.compile(r"\\(?P<gap>[ \t]+)(?P<comment>#[^\n]*)?(?=\r?\n|\Z)")
"""A backslash that a space follows: it continues nothing."""

_PLAIN = re.compile(r"[^\s\\'\"$`;&|()<>#]+")
_NAME = re.compile(r"[A-Za-z_]\w*")
_ANSI = re.compile(r"\$'((?:[^'\\]|\\.)*)'", re.DOTALL)
_BACKTICKS = re.compile(r"`((?:[^`\\]|\\.)*)`", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "e": "\x1b"}


class WordReader:
    """A cursor over the text; each method takes a place and returns the next one."""

    def __init__(self, source: Word) -> None:
        self.text = source.text
        self.at = source.at
        self.to = source.to
        self.script = Script()
        self.waiting: list[tuple[Simple, int, str, bool]] = []
        """Heredocs whose body follows: command, number of its redirection, end, ``<<-``."""

    def where(self, place: int) -> int:
        """A place in this text as a place in the document."""
        if place < len(self.at):
            return self.at[place]
        return self.to[-1] if self.to else 0

    def end(self, place: int) -> int:
        """The document's place just after the character before ``place``."""
        return self.to[place - 1] if 0 < place <= len(self.to) else self.where(place)

    def inner(self, start: int, stop: int) -> Word:
        """A stretch of this text as a source of its own."""
        return Word(
            self.text[start:stop],
            self.where(start),
            self.end(stop),
            self.at[start:stop],
            self.to[start:stop],
        )

    def trouble_at(self, code: str, start: int, end: int) -> None:
        """Note what is wrong at ``[start, end)`` of the document."""
        self.script.troubles.append(Trouble(code, start, end))

    def continues(self, place: int) -> bool:
        """Whether the backslash at ``place`` continues the line, or was meant to."""
        following = self.text[place + 1 : place + 3]
        return (
            following[:1] == "\n"
            or following == "\r\n"
            or bool(ENDS_EARLY.match(self.text, place))
        )

    def until(self, close: str, place: int, depth: int) -> int:
        """Read commands up to ``close``; returns its place."""
        raise NotImplementedError

    def word(self, place: int, depth: int) -> tuple[RawWord, int]:
        start = place
        pieces: list[Piece] = []
        while place < len(self.text):
            character = self.text[place]
            if character == "<" and (found := PLACEHOLDER.match(self.text, place)):
                spot = (self.where(place), self.end(found.end()))
                self.script.placeholders.append(spot)
                pieces.append(Piece("opaque", "", *spot))
                place = found.end()
                continue
            if character == "#" and place > start:
                pieces.append(self._literal(place, place + 1))
                place += 1
                continue
            if character.isspace() or character in ";&|()<>#":
                break
            if character == "\\" and self.continues(place):
                following = self.text[place + 1 : place + 2]
                if following not in ("\n", "\r") or place == start:
                    break
                place = self.text.index("\n", place) + 1
                continue
            place = self._piece(pieces, place, depth)
        return RawWord(tuple(pieces), self.where(start), self.end(place)), place

    def _piece(self, pieces: list[Piece], place: int, depth: int) -> int:
        character = self.text[place]
        if character == "'":
            return self._single(pieces, place)
        if character == '"':
            return self._double(pieces, place, depth)
        if character in "$`":
            return self._dollar(pieces, place, depth, quoted=False)
        if character == "\\":
            stop = min(place + 2, len(self.text))
            pieces.append(self._literal(place + 1, stop, quoted=True))
            return stop
        found = _PLAIN.match(self.text, place)
        stop = found.end() if found else place + 1
        pieces.append(self._literal(place, stop))
        return stop

    def _literal(self, start: int, stop: int, quoted: bool = False) -> Piece:
        return Piece(
            "text",
            self.text[start:stop],
            self.where(start),
            self.end(stop),
            quoted,
            self.at[start:stop],
            self.to[start:stop],
        )

    def _unended(self, place: int) -> int:
        """An unbalanced quote: said, and taken to end with its line, so that the rest is read."""
        self.trouble_at("unbalanced-quote", self.where(place), self.where(place) + 1)
        stop = self.text.find("\n", place)
        return len(self.text) if stop < 0 else stop

    def _single(self, pieces: list[Piece], place: int) -> int:
        stop = self.text.find("'", place + 1)
        ended = stop >= 0
        if not ended:
            stop = self._unended(place)
        pieces.append(self._literal(place + 1, stop, quoted=True))
        return stop + 1 if ended else stop

    def _ansi(self, pieces: list[Piece], place: int) -> int:
        """``$'a\\nb'``."""
        found = _ANSI.match(self.text, place)
        if not found:
            return self._single(pieces, place + 1)
        text, at, inside = "", [], found.start(1)
        while inside < found.end(1):
            step = 2 if self.text[inside] == "\\" else 1
            one = self.text[inside + step - 1]
            text += _ESCAPES.get(one, one) if step == 2 else one
            at.append(self.where(inside))
            inside += step
        spot = (self.where(place), self.end(found.end()))
        to = tuple(one + 1 for one in at)
        pieces.append(Piece("text", text, *spot, True, tuple(at), to))
        return found.end()

    def _double(self, pieces: list[Piece], place: int, depth: int) -> int:
        start = place
        place += 1
        run = place
        empty = len(pieces)
        while place < len(self.text) and self.text[place] != '"':
            character = self.text[place]
            if character == "\\" and place + 1 < len(self.text):
                pieces.append(self._literal(run, place, quoted=True))
                following = self.text[place + 1]
                if following not in '\n$`"\\':
                    pieces.append(self._literal(place, place + 2, quoted=True))
                elif following != "\n":
                    pieces.append(self._literal(place + 1, place + 2, quoted=True))
                place += 2
                run = place
            elif character in "$`":
                pieces.append(self._literal(run, place, quoted=True))
                place = self._dollar(pieces, place, depth, quoted=True)
                run = place
            else:
                place += 1
        if place >= len(self.text):
            del pieces[empty:]
            stop = self._unended(start)
            pieces.append(self._literal(start + 1, stop, quoted=True))
            return stop
        pieces.append(self._literal(run, place, quoted=True))
        return place + 1

    def _dollar(self, pieces: list[Piece], place: int, depth: int, quoted: bool) -> int:
        """A variable, a substitution, or a ``$`` that is only a dollar."""
        following = self.text[place + 1 : place + 2]
        if self.text[place] == "`":
            return self._backticks(pieces, place, depth, quoted)
        if following == "'" and not quoted:
            return self._ansi(pieces, place)
        if following == '"' and not quoted:
            return self._double(pieces, place + 1, depth)
        if following == "{":
            return self._braces(pieces, place, depth, quoted)
        if following == "(":
            stop = self._substitution(place, depth)
            self._opaque(pieces, place, stop, quoted)
            return stop
        if found := _NAME.match(self.text, place + 1):
            spot = (self.where(place), self.end(found.end()))
            pieces.append(Piece("variable", found.group(), *spot, quoted))
            return found.end()
        if following and following in "0123456789@*#?$!-":
            self._opaque(pieces, place, place + 2, quoted)
            return place + 2
        pieces.append(self._literal(place, place + 1, quoted))
        return place + 1

    def _opaque(self, pieces: list[Piece], place: int, stop: int, quoted: bool) -> None:
        pieces.append(Piece("opaque", "", self.where(place), self.end(stop), quoted))

    def _substitution(self, place: int, depth: int) -> int:
        if self.text.startswith("$((", place):
            stop = self.text.find("))", place)
            line = self.text.find("\n", place)
            if 0 <= stop and (line < 0 or stop < line):
                return stop + 2
        if depth >= DEPTH:
            stop = self.text.find(")", place)
            return len(self.text) if stop < 0 else stop + 1
        waiting, self.waiting = self.waiting, []
        stop = self.until(")", place + 2, depth + 1)
        self.waiting = waiting
        return min(stop + 1, len(self.text))

    def _backticks(
        self, pieces: list[Piece], place: int, depth: int, quoted: bool
    ) -> int:
        found = _BACKTICKS.match(self.text, place)
        if not found:
            self.trouble_at("unbalanced-quote", self.where(place), self.end(place + 1))
            self._opaque(pieces, place, place + 1, quoted)
            return place + 1
        if depth < DEPTH:
            inside = type(self)(self.inner(found.start(1), found.end(1)))
            inside.until("", 0, depth + 1)
            self.script.commands += inside.script.commands
            self.script.troubles += inside.script.troubles
        self._opaque(pieces, place, found.end(), quoted)
        return found.end()

    def _braces(self, pieces: list[Piece], place: int, depth: int, quoted: bool) -> int:
        """``${NAME}``, ``${NAME:-default}``, ``${NAME[@]}``; anything else is opaque."""
        stop = _closing(self.text, place + 2)
        if stop < 0:
            self.trouble_at("unbalanced-quote", self.where(place), self.end(place + 2))
            self._opaque(pieces, place, place + 2, quoted)
            return place + 2
        spot = (self.where(place), self.end(stop + 1))
        inside = self.text[place + 2 : stop]
        name = _NAME.match(inside)
        rest = inside[name.end() :] if name else ""
        if name and not rest:
            pieces.append(Piece("variable", inside, *spot, quoted))
        elif name and rest in ("[@]", "[*]"):
            pieces.append(Piece("array", name.group(), *spot, quoted))
        elif name and (operator := re.match(r":?[-=]", rest)) and depth < DEPTH:
            first = place + 2 + name.end() + operator.end()
            default = type(self)(self.inner(first, stop))
            word = default.default(depth + 1)
            pieces.append(
                Piece("variable", name.group(), *spot, quoted, default=word.pieces)
            )
        else:
            self._opaque(pieces, place, stop + 1, quoted)
        return stop + 1

    def default(self, depth: int) -> RawWord:
        """All of the text as one word: spaces belong to it."""
        pieces: list[Piece] = []
        place = 0
        while place < len(self.text):
            if self.text[place] in "'\"$`\\":
                place = self._piece(pieces, place, depth)
                continue
            stop = place + 1
            while stop < len(self.text) and self.text[stop] not in "'\"$`\\":
                stop += 1
            pieces.append(self._literal(place, stop))
            place = stop
        return RawWord(tuple(pieces), self.where(0), self.end(len(self.text)))


def _closing(text: str, place: int) -> int:
    """The ``}`` that closes a ``${`` before ``place``; -1 if its line has none."""
    depth = 1
    while place < len(text):
        character = text[place]
        if character == "\\":
            place += 1
        elif character == "'" and (stop := text.find("'", place + 1)) > 0:
            place = stop
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if not depth:
                return place
        place += 1
    return -1
