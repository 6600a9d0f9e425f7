"""An engine's command as the checks see it: which flags are used where, and how to edit them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from lemnos.engines.flags import Option, Schema
from lemnos.lint.find import Found
from lemnos.lint.findings import Edit, Finding
from lemnos.lint.words import UNKNOWN, Word

_BETWEEN = re.compile(r"(?:[ \t\\,'\"]|\r?\n|#[^\n]*\n)*")
_SAFE = re.compile(r"[\w@%+=:,./~-]+")


@dataclass(frozen=True)
class Use:
    """A flag where it is written: words ``[index, stop)``; ``value`` is None for a bare flag."""

    option: Option
    index: int
    stop: int
    value: Word | None
    negated: bool = False
    name: str = ""


@dataclass(frozen=True)
class Command:
    """A found command with the flags of the release that will run it.

    ``number`` is its place among the document's commands; ``text`` is the document.
    """

    found: Found
    schema: Schema
    text: str
    number: int = 0
    gpus: int | None = None
    """Of the container, or of the batch file; None: not said."""
    extra: tuple[Schema, ...] = field(default=())
    """Schemas whose flags are passed on: a Dynamo worker takes its engine's too."""

    @property
    def engine(self) -> str:
        """The engine whose habits hold: a Dynamo worker's is its backend's."""
        return self.found.engine.removeprefix("dynamo.")

    @property
    def words(self) -> tuple[Word, ...]:
        return self.found.words

    @property
    def start(self) -> int:
        return self.found.head.start

    @property
    def end(self) -> int:
        return self.found.head.end

    @cached_property
    def flags(self) -> Schema:
        """One schema of all flags that the command takes: its own, and those passed on."""
        if not self.extra:
            return self.schema
        first, options = self.schema, list(self.schema.options)
        rules = set(first.rules)
        for schema in self.extra:
            taken = {name for option in options for name in option.names}
            options += [o for o in schema.options if not taken & set(o.names)]
            rules |= schema.rules
        return replace(first, options=tuple(options), rules=frozenset(rules))

    def option(self, name: str) -> Option | None:
        """The flag with this spelling, in the release that will run."""
        return self.flags.named(name)

    @cached_property
    def uses(self) -> tuple[Use, ...]:
        """Every known flag that is used, in order; unique prefixes are what argparse makes them."""
        return tuple(self._uses())

    def _uses(self) -> Iterator[Use]:
        for index, word in enumerate(self.words):
            if not word.text.startswith("-") or len(word.text) < 2:
                continue
            name, equals, _ = word.text.partition("=")
            option = self.option(name) or self._meant(name)
            if option is None:
                continue
            value, stop = None, index + 1
            if equals:
                value = word.part(len(name) + 1, len(word.text))
            elif option.kind != "flag" and index + 1 < len(self.words):
                following = self.words[index + 1]
                if not following.text.startswith("--"):
                    value, stop = following, index + 2
            negated = name.startswith("--no-") and name not in option.names
            yield Use(option, index, stop, value, negated, name)

    def _meant(self, name: str) -> Option | None:
        """What a unique beginning stands for."""
        if not name.startswith("--"):
            return None
        found = self.flags.matching(name)
        return found[0] if len(found) == 1 else None

    def use(self, *names: str) -> Use | None:
        """The last use of a flag by any of these names; None: it is not used."""
        options = [option for name in names if (option := self.option(name))]
        for use in reversed(self.uses):
            if use.option in options:
                return use
        return None

    def has(self, *names: str) -> bool:
        """Whether a flag without a value is on."""
        use = self.use(*names)
        return use is not None and not use.negated

    def value(self, *names: str) -> str | None:
        """The flag's value; None where it is not used or not known before it runs."""
        use = self.use(*names)
        if use is None or use.value is None or not use.value.known:
            return None
        return use.value.text

    def number_of(self, *names: str) -> int | None:
        """The value as a number of tokens or ranks: ``32768``, ``32k``, ``1M``."""
        return number(self.value(*names) or "")

    def open_ended(self) -> bool:
        """Whether a word that nothing is known of may hold further flags."""
        return any(word.text == UNKNOWN for word in self.words)


def number(text: str) -> int | None:
    """``4096``, ``32k`` (32,000), ``32K`` (32,768), as vLLM reads them; None for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMgG]?)", text)
    if not found or len(text) > 12:
        return None
    scale = {
        "": 1,
        "k": 10**3,
        "K": 2**10,
        "m": 10**6,
        "M": 2**20,
        "g": 10**9,
        "G": 2**30,
    }
    value = float(found[1]) * scale[found[2]]
    return int(value) if value == int(value) else None


def quoted(text: str) -> str:
    """``text`` as one shell word."""
    if _SAFE.fullmatch(text):
        return text
    return "'" + text.replace("'", "'\\''") + "'"


def replaced(word: Word, first: int, last: int, new: str) -> tuple[Edit, ...]:
    """Characters ``[first, last)`` of the word become ``new``; none if that is not one place."""
    start, end = word.span(first, last)
    places = word.at[first:last]
    if not places or list(places) != list(range(start, start + len(places))):
        return ()
    if end - start != last - first:
        return ()
    return (Edit(start, end, new),)


def rewritten(word: Word, new: str) -> tuple[Edit, ...]:
    """The word's text becomes ``new``, inside its quotes where it has some."""
    return replaced(word, 0, len(word.text), new)


def of_use(
    command: Command,
    rule: str,
    use: Use,
    what: str,
    why: str,
    instead: str,
    edits: tuple[Edit, ...],
) -> Finding:
    """A finding about an option and its value."""
    first, last = command.words[use.index], command.words[use.stop - 1]
    end = max(first.end, last.end)
    return Finding(rule, first.start, end, what, why, instead, edits, command.number)


def removed(command: Command, index: int, stop: int) -> tuple[Edit, ...]:
    """Words ``[index, stop)`` go, with the space (or the line of a YAML list) before them."""
    words = command.words[index:stop]
    text = command.text
    if command.found.listed and _own_line(text, words[0]):
        return tuple(_line(text, word) for word in words)
    before = command.words[index - 1].end if index else -1
    if 0 <= before <= words[0].start and _BETWEEN.fullmatch(
        text[before : words[0].start]
    ):
        if _increasing(words):
            return (Edit(before, words[-1].end, ""),)
    return tuple(Edit(_back(text, word.start), word.end, "") for word in words)


def inserted(command: Command, new: Sequence[str]) -> tuple[Edit, ...]:
    """Further words at the command's end."""
    if not command.words:
        return ()
    last = command.words[-1]
    text = command.text
    if command.found.listed:
        if not _own_line(text, last):
            return (Edit(last.end, last.end, "".join(f', "{word}"' for word in new)),)
        begin = text.rfind("\n", 0, last.start) + 1
        mark = re.match(r"[ \t]*- *", text[begin:])
        stop = _line_end(text, last.end)
        head = mark.group() if mark else "- "
        return (Edit(stop, stop, "".join(f'\n{head}"{word}"' for word in new)),)
    between = ""
    if len(command.words) > 2 and command.words[-2].end <= last.start:
        between = _between(command)
    joint = between or " "
    line = " ".join(quoted(word) for word in new)
    if command.found.around and line != " ".join(new):
        return ()  # perhaps inside a shell's own quotes
    return (Edit(last.end, last.end, joint + line),)


def _between(command: Command) -> str:
    """What stands between flags on lines of their own: `` \\``, line end, indentation."""
    gaps = re.findall(
        r" ?\\\r?\n[ \t]*(?=-)", command.text[command.start : command.words[-1].end]
    )
    return gaps[-1] if gaps else ""


def _own_line(text: str, word: Word) -> bool:
    begin = text.rfind("\n", 0, word.start) + 1
    return bool(re.fullmatch(r"[ \t]*- +", text[begin : word.start]))


def _line(text: str, word: Word) -> Edit:
    begin = text.rfind("\n", 0, word.start)
    return Edit(max(begin, 0), _line_end(text, word.end), "")


def _line_end(text: str, place: int) -> int:
    stop = text.find("\n", place)
    return len(text) if stop < 0 else stop


def _increasing(words: Sequence[Word]) -> bool:
    pairs = zip(words, words[1:], strict=False)
    return all(a.end <= b.start for a, b in pairs)


def _back(text: str, place: int) -> int:
    while place and text[place - 1] in " \t":
        place -= 1
    return place
