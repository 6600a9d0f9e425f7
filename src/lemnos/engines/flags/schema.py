"""The options of every known release of an engine, out of one table an engine.

``{engine}.json`` beside this file is written by ``scripts/flag_schemas.py`` from the releases'
own wheels; ``replacements.json`` and ``checks.json`` are written by people. A row of a table is::

    [first, last, [spelling, ...], kind, {many, choices, default, twin, deprecated, ...}]

where first and last are places in the table's list of versions, both included. An option that
changed between two releases has two rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

import orjson

from lemnos.errors import UsageError, near

Kind = Literal["text", "int", "float", "flag", "json"]

ENGINES = ("vllm", "sglang", "dynamo.frontend", "dynamo.vllm", "dynamo.sglang")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of an engine's command line.

    ``names`` holds every spelling with its dashes, the canonical long one first. ``kind`` is
    what a value must be; "flag" takes none. ``many`` is "" for one value, else argparse's
    nargs. ``twin``: ``--no-...`` exists too. ``deprecated`` is what the engine says to use
    instead ("deprecated" where it says nothing more), "" where it is not deprecated.
    ``open_keys``: dotted keys and JSON objects (``-cc.mode=none``). ``reads`` names the
    function of the engine that reads a value, where ``kind`` alone does not say what passes.
    ``required``: the parser refuses a command line without it. ``front``: of
    vLLM's server, not of its engine, so that Dynamo's workers do not have it.
    """

    names: tuple[str, ...]
    kind: Kind
    many: str = ""
    choices: tuple[str, ...] = ()
    default: str | int | float | bool | None = None
    twin: bool = False
    deprecated: str = ""
    open_keys: bool = False
    reads: str = ""
    required: bool = False
    front: bool = False


@dataclass(frozen=True)
class Schema:
    """The options of one release.

    ``version`` is the release's; ``asked`` is what was asked for where that is another one,
    which the table does not have. ``rules`` are the habits of that release's parser beyond
    argparse's own: "underscores" (``--max_model_len`` is ``--max-model-len``), ``vllm_words.py``
    has them all. ``configs``: the classes that JSON options are read into, with what each of their
    fields takes. ``carries``: for Dynamo, the engines that the release pins, with their versions.
    """

    engine: str
    version: str
    asked: str | None
    options: tuple[Option, ...]
    rules: frozenset[str] = frozenset()
    configs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    carries: Mapping[str, str] = field(default_factory=dict)
    _spellings: dict[str, Option] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for option in self.options:
            for name in spellings(option):
                self._spellings[name] = option

    @property
    def spellings(self) -> dict[str, Option]:
        """Every spelling, ``--no-`` twins included, with the option it belongs to."""
        return self._spellings

    def named(self, word: str) -> Option | None:
        """The option with exactly this spelling, a twin's or one with underscores included."""
        return self._spellings.get(word) or self._spellings.get(self.dashed(word))

    def matching(self, prefix: str) -> tuple[Option, ...]:
        """The options that argparse would take ``prefix`` for: one is meant, more are ambiguous.

        Two where an option and its own twin begin alike cannot be: ``--no-`` differs.
        """
        start = self.dashed(prefix)
        if not start.startswith("--"):
            return ()
        found = [o for name, o in self._spellings.items() if name.startswith(start)]
        return tuple(dict.fromkeys(found))

    def dashed(self, word: str) -> str:
        """``word`` as the engine reads it: with dashes for underscores if it does that."""
        if "underscores" not in self.rules or not word.startswith("--"):
            return word
        head, dot, keys = word.partition(".")
        return head.replace("_", "-") + dot + keys


@dataclass(frozen=True)
class Lifetime:
    """The releases that have an option: the ``first`` and ``last`` known ones, and what came after.

    ``gone`` is the first known release without it, None if the newest has it. ``instead`` is
    the replacement in words: people's (replacements.json), else what the engine last said
    (an option that only counts as deprecated has one too); "" if there is none.
    """

    first: str
    last: str
    gone: str | None
    instead: str


def schema_for(engine: str, version: str | None) -> Schema:
    """The options of a release; of the newest one for None.

    A release that the table does not have gets the nearest known one before it (or the oldest),
    and ``asked`` says so. ``v0.26.0``, ``0.26`` and ``0.26.0-cu130`` are all 0.26.0; what is no
    version (``nightly``) gets the newest. Raises UsageError for an engine that is not known.
    """
    known = versions(engine)
    if version is None:
        return _schema(engine, len(known) - 1, None)
    place, exact = _nearest(version, known)
    return _schema(engine, place, None if exact else version)


def lifetime(engine: str, name: str) -> Lifetime | None:
    """When an option lived, by any of its spellings; None if no known release had it."""
    known = versions(engine)
    places = _places(engine).get(name.replace("_", "-")) or _places(engine).get(name)
    if not places:
        return None
    last = max(places)
    said = _schema(engine, last, None).named(name)
    advice = said.deprecated if said and said.deprecated != "deprecated" else ""
    curated = _replacements().get(engine, {}).get(said.names[0], "") if said else ""
    return Lifetime(
        first=known[min(places)],
        last=known[last],
        gone=known[last + 1] if last + 1 < len(known) else None,
        instead=curated or advice,
    )


def versions(engine: str) -> tuple[str, ...]:
    """The known releases of an engine, oldest first."""
    return tuple(_table(engine)["versions"])


def spellings(option: Option) -> Iterator[str]:
    """Every spelling of an option, with the ``--no-`` twins of its long ones."""
    yield from option.names
    if option.twin:
        for name in option.names:
            if name.startswith("--"):
                yield "--no-" + name[2:]


@cache
def _schema(engine: str, place: int, asked: str | None) -> Schema:
    table = _table(engine)
    options = tuple(_option(*row[2:]) for row in _there(table["options"], place))
    carries = {row[2]: row[3] for row in _there(table["carries"], place)}
    rules = {row[2] for row in _there(table["rules"], place)}
    configs = {row[2]: row[3] for row in _there(table["configs"], place)}
    inner = engine.removeprefix("dynamo.")
    if inner != engine and inner in carries:
        # A worker of Dynamo takes its own options, and hands the others to its engine.
        carried = schema_for(inner, carries[inner])
        own = {name for option in options for name in spellings(option)}
        options += tuple(
            option
            for option in carried.options
            if not option.front and own.isdisjoint(option.names)
        )
        rules |= carried.rules - {"model-positional"}
        configs |= carried.configs
    return Schema(
        engine=engine,
        version=table["versions"][place],
        asked=asked,
        options=options,
        rules=frozenset(rules),
        configs=configs,
        carries=carries,
    )


def _there(rows: list[Any], place: int) -> list[Any]:
    return [row for row in rows if row[0] <= place <= row[1]]


def _option(names: list[str], kind: Kind, more: dict[str, Any]) -> Option:
    choices = tuple(more.get("choices", ()))
    return Option(tuple(names), kind, **{**more, "choices": choices})


def _nearest(version: str, known: tuple[str, ...]) -> tuple[int, bool]:
    """The place of the release to use for ``version``, and whether it is that very one."""
    wanted = _key(version)
    if wanted is None:
        return len(known) - 1, False
    keys = [_key(one) or () for one in known]
    places = [place for place, key in enumerate(keys) if key <= wanted]
    place = places[-1] if places else 0
    before = re.search(r"\d\.?(a|b|rc|dev)\d", version)
    return place, keys[place] == wanted and not before


def _key(version: str) -> tuple[int, ...] | None:
    """What versions sort by: ``0.5.6.post2`` is (0, 5, 6, 0, 2); None for what is no version."""
    found = re.match(r"v?(\d+(?:\.\d+){0,3})(?:\.?post(\d+))?", version.strip())
    if not found:
        return None
    numbers = [int(part) for part in found[1].split(".")]
    return (*numbers, *[0] * (4 - len(numbers)), int(found[2] or 0))


@cache
def _places(engine: str) -> dict[str, set[int]]:
    """The places in the list of versions that have each spelling."""
    places: dict[str, set[int]] = {}
    for first, last, names, kind, more in _table(engine)["options"]:
        for name in spellings(_option(names, kind, more)):
            places.setdefault(name, set()).update(range(first, last + 1))
    return places


@cache
def _table(engine: str) -> dict[str, Any]:
    if engine not in ENGINES:
        raise UsageError(
            f"no flags are known for the engine '{engine}'",
            fix=near(engine, list(ENGINES)) or f"known engines: {', '.join(ENGINES)}",
        )
    return _data(f"{engine}.json")


def checks(engine: str, config: str) -> tuple[dict[str, Any], ...]:
    """What a config class checks beyond its types: {given, when, needs, message} (checks.json)."""
    return tuple(_checks().get(engine, {}).get(config, ()))


@cache
def _checks() -> dict[str, dict[str, list[dict[str, Any]]]]:
    return _data("checks.json")


@cache
def _replacements() -> dict[str, dict[str, str]]:
    return _data("replacements.json")


def _data(name: str) -> dict[str, Any]:
    text = resources.files(__package__).joinpath(name).read_bytes()
    data: dict[str, Any] = orjson.loads(text)
    return data
