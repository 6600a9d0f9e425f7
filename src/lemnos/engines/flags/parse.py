"""Judge a command line as an engine's own parser would, without the engine.

The engines' parsers are Python's argparse (and vLLM's own steps before it, ``vllm_words.py``), so
this follows argparse's rules one by one: which words are options, how many words each takes, what
the words are read as. Unlike argparse it goes on after a mistake, and says where each one is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from lemnos.engines.flags.schema import Option, Schema
from lemnos.engines.flags.values import fault, wanted
from lemnos.errors import near

Code = Literal[
    "unknown",
    "ambiguous",
    "prefix",
    "value",
    "choice",
    "missing-value",
    "unwanted-value",
    "deprecated",
    "positional",
]
_NEGATIVE = re.compile(r"^-\d+$|^-\d*\.\d+$")


@dataclass(frozen=True)
class Problem:
    """What is wrong with one word of a command line.

    ``index`` is the word's place in argv (its length for a word that is missing at the end);
    ``message`` is one sentence. ``fatal``: the engine's parser would refuse. A unique prefix and
    a deprecation are not fatal.
    """

    code: Code
    word: str
    index: int
    message: str
    fatal: bool


@dataclass(frozen=True)
class Parsed:
    """What a command line says: canonical option name -> its values as written.

    A flag has no values; one that is turned off (``--no-x``) is there under that name. An option
    that is given several times has the values of the last time, or all of them where the engine
    collects them. Dotted keys are there as the JSON that the engine makes of them.
    """

    values: dict[str, list[str]]
    positionals: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """A word as the parser gets it, and its place in argv."""

    text: str
    index: int


@dataclass
class State:
    """What has been found so far."""

    schema: Schema
    values: dict[str, list[str]] = field(default_factory=dict)
    positionals: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    config_file: bool = False
    extras: list[Problem] = field(
        default_factory=list
    )  # argparse refuses these at the end
    helped: bool = False  # --help: the engine prints it and ends well

    def add(self, code: Code, word: Word, message: str, *, fatal: bool = True) -> None:
        """Remember a problem."""
        self.problems.append(Problem(code, word.text, word.index, message, fatal))

    def add_extra(self, code: Code, word: Word, message: str) -> None:
        """Remember a word that belongs to nothing: argparse refuses these at the very end."""
        self.extras.append(Problem(code, word.text, word.index, message, True))


@dataclass(frozen=True, slots=True)
class Meant:
    """An option that a word stands for: how it is spelled out, and the value glued to it.

    ``option`` is None for a word that looks like an option and is none.
    """

    option: Option | None
    name: str
    value: str | None


def parse(schema: Schema, argv: Sequence[str]) -> Parsed:
    """Read ``argv``, the words after ``vllm serve`` or ``python -m sglang.launch_server``.

    The problems are in the order of the words; the engine stops at the first fatal one. What only
    a later check of the engine can know (a file that is missing, two options that exclude each
    other) is no problem here.
    """
    from lemnos.engines.flags.vllm_words import prepared

    state = State(schema)
    words = prepared(state, [Word(text, at) for at, text in enumerate(argv)])
    _walk(state, words)
    if not state.helped:  # --help ends before that
        state.problems += state.extras
    order = sorted(state.problems, key=lambda problem: problem.index)
    return Parsed(state.values, tuple(state.positionals), tuple(order))


def _walk(state: State, words: list[Word]) -> None:
    """argparse's loop: positionals up to the next option, then that option with its values."""
    kinds, meant = _classified(state, words)
    slots = 1 if "model-positional" in state.schema.rules else 0
    at = 0
    while at < len(words) and not state.helped:
        if at in meant:
            at = _take(state, words, kinds, at, meant[at])
            continue
        end = next((n for n in range(at, len(words)) if n in meant), len(words))
        stray = at > 0 and at - 1 in meant and meant[at - 1].option is None
        slots = _positionals(state, words[at:end], kinds[at:end], slots, stray)
        at = end
    if not state.helped:
        _required(state, words)


def _classified(state: State, words: list[Word]) -> tuple[str, dict[int, Meant]]:
    """A letter a word: O an option, A a value, - the ``--`` after which all are values."""
    kinds, meant = "", {}
    for at, word in enumerate(words):
        if "-" in kinds:
            kinds += "A"
        elif word.text == "--":
            kinds += "-"
        elif (found := _meaning(state, word)) is not None:
            meant[at] = found
            kinds += "O"
        else:
            kinds += "A"
    return kinds, meant


def _meaning(state: State, word: Word) -> Meant | None:
    """The option that a word stands for; None for a word that can only be a value."""
    text, known = word.text, state.schema.spellings
    if not text.startswith("-"):
        return None
    if text in known:
        return Meant(known[text], text, None)
    if len(text) == 1:
        return None
    head, equals, value = text.partition("=")
    if equals and head in known:
        return Meant(known[head], head, value)
    found = _begun(state.schema, text)
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:6])
        state.add("ambiguous", word, f"{head} could be any of {names}")
        return found[0]
    if found:
        _say_prefix(state, word, found[0])
        return found[0]
    if _NEGATIVE.match(text) or " " in text:
        return None
    return Meant(None, head, value if equals else None)


def _begun(schema: Schema, text: str) -> list[Meant]:
    """The spellings that a word begins: argparse's rules for prefixes and for ``-x`` glued to a value."""
    known = schema.spellings
    if text.startswith("--"):
        head, equals, value = text.partition("=")
        given = value if equals else None
        return [
            Meant(o, name, given) for name, o in known.items() if name.startswith(head)
        ]
    found = []
    for name, option in known.items():
        if name == text[:2]:
            found.append(Meant(option, name, text[2:]))
        elif name.startswith(text):
            found.append(Meant(option, name, None))
    return found


def _say_prefix(state: State, word: Word, found: Meant) -> None:
    head = word.text.partition("=")[0]
    if found.value is not None and not head.startswith("--"):
        return  # -q4 is -q 4
    state.add(
        "prefix", word, f"{head} is short for {found.name}: write that", fatal=False
    )


def _take(state: State, words: list[Word], kinds: str, at: int, meant: Meant) -> int:
    """Read an option and its values; the place of the first word after them."""
    word, option = words[at], meant.option
    if option is None:
        _say_unknown(state, word, meant.name)
        return at + 1
    _say_deprecated(state, word, option, meant.name)
    if meant.value is not None:
        return _take_glued(state, words, at, meant, option)
    count = _count(option, kinds[at + 1 :])
    if count is None:
        need = f"{option.many} values" if option.many.isdigit() else wanted(option)
        state.add("missing-value", word, f"{meant.name} needs {need}")
        return at + 1 + _values(kinds[at + 1 :])
    _store(state, option, meant.name, words[at + 1 : at + 1 + count])
    return at + 1 + count


def _take_glued(
    state: State, words: list[Word], at: int, meant: Meant, option: Option
) -> int:
    """``--name=value``, ``-n4``; flags with one dash may be joined: ``-ab``."""
    word, value = words[at], meant.value or ""
    if option.kind == "flag":
        inner = state.schema.spellings.get("-" + value[:1])
        if meant.name.startswith("--") or not value or inner is None:
            state.add(
                "unwanted-value", word, f"{meant.name} takes no value, not '{value}'"
            )
            return at + 1
        _store(state, option, meant.name, [])
        return _take(
            state, words, "", at, Meant(inner, "-" + value[0], value[1:] or None)
        )
    if option.many.isdigit() and option.many != "1":
        state.add("missing-value", word, f"{meant.name} needs {option.many} values")
        return at + 1
    _store(state, option, meant.name, [Word(value, word.index)])
    return at + 1


def _count(option: Option, kinds: str) -> int | None:
    """How many of the words that follow an option takes; None if there are too few."""
    there = _values(kinds)
    if option.kind == "flag":
        return 0
    if option.many == "*":
        return there
    if option.many == "+":
        return there or None
    if option.many == "?":
        return min(there, 1)
    need = int(option.many or 1)
    return need if there >= need else None


def _values(kinds: str) -> int:
    return len(kinds) - len(kinds.lstrip("A"))


def _store(state: State, option: Option, name: str, values: list[Word]) -> None:
    state.helped = state.helped or option.reads == "help"
    for value in values:
        if (found := fault(state.schema, option, value.text)) is not None:
            code: Code = "choice" if found[0] == "choice" else "value"
            state.add(code, value, found[1])
    canonical = option.names[0]
    off = "--no-" + canonical[2:]
    texts = [value.text for value in values]
    state.values.pop(off, None)
    if name.startswith("--no-") and name not in option.names:
        state.values.pop(canonical, None)
        canonical = off
    if option.reads == "append":
        texts = [*state.values.get(canonical, []), *texts]
    state.values[canonical] = texts


def _positionals(
    state: State, words: list[Word], kinds: str, slots: int, stray: bool
) -> int:
    """Words that belong to no option: the model, if there is a place for it, and too many.

    ``stray``: the first follows an option that does not exist, which is reported already.
    """
    for word, kind in zip(words, kinds, strict=True):
        if kind == "-":
            # Beside the model ``--`` goes unseen; alone it is one word too many.
            if len(words) == 1 and not slots:
                state.add_extra(
                    "positional", word, "-- stands alone: nothing follows it"
                )
            continue
        state.positionals.append(word.text)
        if slots:
            slots -= 1
        elif not (stray and word is words[0]):
            state.add_extra("positional", word, f"'{word.text}' belongs to no option")
    return slots


def _say_unknown(state: State, word: Word, name: str) -> None:
    schema = state.schema
    parts = {part for part in name.split("-") if len(part) > 2}
    alike = [n for n in schema.spellings if not parts.isdisjoint(n.split("-"))]
    hint = near(name, alike, most=2)
    message = f"{schema.engine} {schema.version} has no {name}"
    state.add_extra("unknown", word, f"{message}. {hint}".strip() if hint else message)


def _say_deprecated(state: State, word: Word, option: Option, name: str) -> None:
    if option.reads == "refused":
        state.add("deprecated", word, f"{name} is refused: {option.deprecated}")
        return
    if option.deprecated:
        more = "" if option.deprecated == "deprecated" else f": {option.deprecated}"
        state.add("deprecated", word, f"{name} is deprecated{more}", fatal=False)


def _required(state: State, words: list[Word]) -> None:
    if state.config_file:
        return  # it may be in the file
    end = Word("", words[-1].index + 1 if words else 0)
    for option in state.schema.options:
        if option.required and option.names[0] not in state.values:
            missing = Word(option.names[0], end.index)
            state.add("missing-value", missing, f"{option.names[0]} has to be given")
