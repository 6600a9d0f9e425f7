"""Put variables into words, as far as the text itself says what they hold. Pure.

What is assigned inside ``if``, ``for``, ``while`` or ``case`` holds inside it; after it, what
was assigned there is unknown: which branch runs is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lemnos.lint.shell_parts import Assignment, Piece, RawWord, Redirect, Script, Simple
from lemnos.lint.words import UNKNOWN, Word

Values = dict[str, tuple[Word, ...] | None]
"""A variable's value: one word, an array's words, None where it is unknown."""

_OPENERS = {"if", "for", "while", "until", "case", "select"}
_BRANCHES = {"else", "elif"}
_CLOSERS = {"fi", "done", "esac"}
_SKIPPED = {"then", "do", "else", "elif", "if", "while", "until", "!", "{", "time"}
_EXPORTS = {"export", "declare", "typeset", "local", "readonly"}
_FORGETS = {"unset", "read", "mapfile", "readarray", "getopts", "source", "."}
MOST_WORDS = 4096
"""Of one command: a hostile text could make arrays of arrays."""


@dataclass(frozen=True)
class Run:
    """A command as it will run: its words, and the environment that the text gives it."""

    words: tuple[Word, ...]
    env: Mapping[str, Word]
    redirects: tuple[Redirect, ...] = ()
    start: int = 0
    assigned: tuple[tuple[str, Word | None, int, int], ...] = ()
    """Its assignments: name, value (None: an array), and where they are written."""


@dataclass
class _Block:
    """An open ``if`` or loop: the values before it, and what is assigned inside."""

    before: Values
    names: set[str] = field(default_factory=set)
    replaced: set[str] = field(default_factory=set)
    """Of those, the ones that are not only added to."""


@dataclass
class _Scope:
    values: Values = field(default_factory=dict)
    exported: set[str] = field(default_factory=set)
    blocks: list[_Block] = field(default_factory=list)

    def assign(self, name: str, value: tuple[Word, ...] | None) -> None:
        self.values[name] = value
        for block in self.blocks:
            block.names.add(name)

    def open(self) -> None:
        self.blocks.append(_Block(dict(self.values)))

    def branch(self) -> None:
        if self.blocks:
            self._judge(self.blocks[-1])
            for name in self.blocks[-1].names:
                self.values[name] = self.blocks[-1].before.get(name)

    def close(self) -> None:
        """After the block: what it replaced is unknown, what it added to may have more."""
        if not self.blocks:
            return
        block = self.blocks.pop()
        self._judge(block)
        for name in block.names:
            before = block.before.get(name)
            if name in block.replaced or not before:
                self.values[name] = None
            else:
                last = before[-1]
                more = Word(UNKNOWN, last.end, last.end, (last.end,), (last.end,))
                self.values[name] = (*before, more)

    def _judge(self, block: _Block) -> None:
        for name in block.names:
            before, now = block.before.get(name), self.values.get(name)
            if not before or not now or now[: len(before)] != before:
                block.replaced.add(name)


def runs(script: Script, env: Mapping[str, Word] | None = None) -> Iterator[Run]:
    """Each command of the script with its variables put in, in the order of the text."""
    scope = _Scope()
    for name, word in (env or {}).items():
        scope.assign(name, (word,))
        scope.exported.add(name)
    after = ""
    for command in script.commands:
        if after == ";;":
            scope.branch()
        yield _run(command, scope)
        after = command.after


def _run(command: Simple, scope: _Scope) -> Run:
    words = _expanded(_blocks(command.words, scope), scope.values)
    head = words[0].text if words else ""
    assigned = []
    local: dict[str, Word] = {}
    for one in command.assignments:
        value = _value(one, scope.values)
        simple = value[0] if value is not None and one.items is None else None
        assigned.append((one.name, simple, one.start, one.end))
        if words and head not in _EXPORTS:
            if simple:
                local[one.name] = simple
            continue
        scope.assign(one.name, value)
        if head == "export" or (
            head in _EXPORTS and any(w.text == "-x" for w in words)
        ):
            scope.exported.add(one.name)
    if head == "export":
        scope.exported.update(word.text for word in words[1:])
    if head in _FORGETS:
        for word in words[1:]:
            scope.assign(word.text, None)
    start = min(
        [word.start for word in command.words[:1]]
        + [one.start for one in command.assignments[:1]]
        + [one.start for one in command.redirects[:1]]
    )
    visible = {
        name: value[0]
        for name in scope.exported
        if (value := scope.values.get(name)) and len(value) == 1
    }
    return Run(
        tuple(words),
        visible | local,
        tuple(command.redirects),
        start,
        tuple(assigned),
    )


def _blocks(words: list[RawWord], scope: _Scope) -> list[RawWord]:
    """Follow ``if``, ``else``, ``fi``; what is left is the command itself."""
    while words:
        head = literal(words[0])
        if head in _OPENERS:
            scope.open()
        if head in _BRANCHES:
            scope.branch()
        if head in _CLOSERS:
            scope.close()
        if head in ("for", "select") and len(words) > 1:
            scope.assign(literal(words[1]), None)
        if head not in _SKIPPED:
            break
        words = words[1:]
    return words


def _value(one: Assignment, values: Values) -> tuple[Word, ...] | None:
    if one.items is not None:
        items = tuple(_expanded(one.items, values))
        if not one.append:
            return items
        before = values.get(one.name, ())
        return None if before is None else (*before, *items)[:MOST_WORDS]
    if one.value is None:
        return None
    word = _whole(one.value, values)
    if not one.append:
        return (word,)
    before = values.get(one.name)
    if not before:
        return None
    first = before[0]
    return (
        Word(
            (first.text + word.text)[:100_000],
            first.start,
            word.end,
            first.at + word.at,
            first.to + word.to,
        ),
    )


def literal(word: RawWord) -> str:
    """What a word says without its variables."""
    return "".join(piece.text for piece in word.pieces if piece.kind == "text")


def _whole(raw: RawWord, values: Values) -> Word:
    """An assignment's value: one word, however many spaces are in it."""
    parts = [
        part for piece in raw.pieces for part in _piece(piece, values, split=False)
    ]
    return _glued([part for part in parts if part is not None], raw)


def _expanded(raws: Iterable[RawWord], values: Values) -> list[Word]:
    words: list[Word] = []
    for raw in raws:
        words += _words(raw, values)
        if len(words) > MOST_WORDS:
            return words[:MOST_WORDS]
    return words


def _words(raw: RawWord, values: Values) -> list[Word]:
    """A word as the shell would split it: ``$EXTRA`` may be several, or none."""
    if all(piece.kind == "text" for piece in raw.pieces):
        return [_glued([_text(piece) for piece in raw.pieces], raw)]
    groups: list[list[Word]] = [[]]
    cut = False
    for piece in raw.pieces:
        for part in _piece(piece, values, split=True):
            if part is None:
                groups.append([])
                cut = True
            else:
                groups[-1].append(part)
    if not cut:
        arrays = any(piece.kind == "array" for piece in raw.pieces)
        quoted = any(piece.quoted or piece.kind == "text" for piece in raw.pieces)
        if not any(part.text for part in groups[0]) and (arrays or not quoted):
            return []
        return [_glued(groups[0], raw)]
    said = [[part for part in group if part.text] for group in groups]
    return [_glued(group, None) for group in said if group]


def _piece(piece: Piece, values: Values, split: bool) -> list[Word | None]:
    """A piece's parts; None stands where the shell would begin another word."""
    if piece.kind == "text":
        return [_text(piece)]
    value = _looked_up(piece, values)
    if value is None:
        return [Word(UNKNOWN, piece.start, piece.end, (piece.start,), (piece.end,))]
    if piece.kind == "array":
        parts: list[Word | None] = []
        if not split:
            return [*value]
        for word in value:
            found = [word] if piece.quoted else _split(word)
            parts += [None, *found] if parts and found else found
        return parts
    if piece.quoted or not split:
        return list(value[:1])
    return _split(value[0]) if value else []


def _looked_up(piece: Piece, values: Values) -> tuple[Word, ...] | None:
    if piece.kind == "opaque":
        return None
    if piece.name in values:
        return values[piece.name]
    if piece.default is None:
        return None
    raw = RawWord(piece.default, piece.start, piece.end)
    return (_whole(raw, values),)


def _split(word: Word) -> list[Word | None]:
    parts: list[Word | None] = []
    start = 0
    for place in range(len(word.text) + 1):
        if place < len(word.text) and word.text[place] not in " \t\n":
            continue
        if place > start:
            parts += (
                [None, word.part(start, place)] if parts else [word.part(start, place)]
            )
        start = place + 1
    return parts


def _text(piece: Piece) -> Word:
    return Word(piece.text, piece.start, piece.end, piece.at, piece.to)


def _glued(parts: list[Word], raw: RawWord | None) -> Word:
    if len(parts) == 1:
        one = parts[0]
        if raw is None or not one.text:
            return one if raw is None else Word("", raw.start, raw.end, (), ())
        return Word(one.text, raw.start, raw.end, one.at, one.to)
    at = tuple(place for part in parts for place in part.at)
    to = tuple(place for part in parts for place in part.to)
    start = raw.start if raw else parts[0].start
    end = raw.end if raw else parts[-1].end
    return Word("".join(part.text for part in parts), start, end, at, to)
