"""What a model needs of an engine's version: parsers, switches, speculation, overlays. Data (``quirks.yaml``). Pure."""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import Any, Literal

import yaml
from packaging.version import Version

from lemnos.engines.flags.schema import schema_for
from lemnos.spec.architecture import Architecture
from lemnos.spec.base import Value
from lemnos.spec.quirks import KnownIssue, Overlay, Quirks

OPTIONS = {"tool": "--tool-call-parser", "reasoning": "--reasoning-parser"}
"""Where an engine's table of flags lists its parsers, if it does."""
Kind = Literal["tool", "reasoning"]


class Speculation(Value):
    """Flags from a version on."""

    since: str
    families: tuple[str, ...] = ()
    """Empty: every family of the entry."""
    flags: dict[str, Any]


class IssueEntry(KnownIssue):
    """A known issue, of one engine, and of checkpoints stored in one way."""

    engine: str
    stored: str | None = None
    sources: tuple[str, ...]


class OverlayEntry(Overlay):
    """An overlay that one engine needs, before ``fixed``."""

    engine: str
    fixed: str | None = None


class Entry(Value):
    """What holds for the models of some families, of some names."""

    name: str
    families: tuple[str, ...]
    names: str = ""
    """A regular expression that the lower-case name holds; empty: any name."""
    tool: dict[str, tuple[str, ...]] = {}
    """Parsers by engine, the best first."""
    reasoning: dict[str, tuple[str, ...]] = {}
    reasoning_on: dict[str, Any] = {}
    reasoning_off: dict[str, Any] = {}
    reasons_by_default: bool = False
    mtp: dict[str, tuple[Speculation, ...]] = {}
    trust_remote_code: bool = False
    overlays: tuple[str, ...] = ()
    issues: tuple[str, ...] = ()
    sources: tuple[str, ...]


class QuirksFile(Value):
    """The whole of ``quirks.yaml``."""

    parsers: dict[str, dict[Kind, dict[str, tuple[str, ...]]]]
    """When a release has a parser: engine, kind, name, (since[, until])."""
    issues: tuple[IssueEntry, ...]
    overlays: tuple[OverlayEntry, ...]
    models: tuple[Entry, ...]


def quirks_for(
    engine: str, version: str, name: str, architecture: Architecture | None
) -> Quirks:
    """What is special about the model ``name`` on ``engine``'s ``version``.

    ``engine``: ``vllm``, ``sglang``, ``dynamo.vllm`` or ``dynamo.sglang``. Dynamo parses by itself,
    so parsers are its own; flags and issues are those of the engine that the release carries, too.
    Without an architecture, or where no entry matches, there is nothing special.
    """
    if architecture is None:
        return Quirks()
    entry = _entry(architecture.family, name)
    if entry is None:
        return Quirks()
    front, _, worker = engine.partition(".")
    running = {front: version}
    if worker:
        carried = schema_for(engine, version).carries
        running[worker] = carried.get(worker, "")
    issues = _issues(entry, running, architecture.stored)
    return Quirks(
        tool_parser=_parser(entry.tool, "tool", front, version),
        reasoning_parser=_parser(entry.reasoning, "reasoning", front, version),
        reasoning_on=entry.reasoning_on,
        reasoning_off=entry.reasoning_off,
        reasons_by_default=entry.reasons_by_default,
        speculation=_speculation(entry, architecture, running),
        trust_remote_code=entry.trust_remote_code,
        overlays=_overlays(entry, running),
        issues=tuple(KnownIssue(**_plain(issue, KnownIssue)) for issue in issues),
        sources=(*entry.sources, *(each for issue in issues for each in issue.sources)),
    )


def _entry(family: str, name: str) -> Entry | None:
    low = name.lower()
    for entry in _file().models:
        if family in entry.families and re.search(entry.names, low):
            return entry
    return None


def _parser(
    candidates: dict[str, tuple[str, ...]], kind: Kind, engine: str, version: str
) -> str | None:
    """The first candidate that the version has."""
    return next(
        (
            name
            for name in candidates.get(engine, ())
            if _has(engine, version, kind, name)
        ),
        None,
    )


def _has(engine: str, version: str, kind: Kind, name: str) -> bool:
    """Whether the release registers a parser of that name: as its flags say, or our table."""
    span = _file().parsers.get(engine, {}).get(kind, {}).get(name)
    if span:
        return _in_range(version, span[0], span[1] if len(span) > 1 else None)
    option = schema_for(engine, version).named(OPTIONS[kind])
    return option is not None and name in option.choices


def _speculation(
    entry: Entry, architecture: Architecture, running: dict[str, str]
) -> dict[str, Any]:
    """Flags for the checkpoint's own MTP layers; none where it has none."""
    if not architecture.mtp:
        return {}
    for engine, version in running.items():
        for each in entry.mtp.get(engine, ()):
            fits = not each.families or architecture.family in each.families
            if fits and _in_range(version, each.since, None):
                return each.flags
    return {}


def _issues(
    entry: Entry, running: dict[str, str], stored: str
) -> tuple[IssueEntry, ...]:
    return tuple(
        issue
        for issue in _file().issues
        if issue.name in entry.issues
        and issue.engine in running
        and issue.stored in (None, stored)
        and _in_range(running[issue.engine], issue.since, issue.fixed)
    )


def _overlays(entry: Entry, running: dict[str, str]) -> tuple[Overlay, ...]:
    return tuple(
        Overlay(**_plain(each, Overlay))
        for each in _file().overlays
        if each.name in entry.overlays
        and each.engine in running
        and _in_range(running[each.engine], None, each.fixed)
    )


def _in_range(version: str, since: str | None, until: str | None) -> bool:
    """Whether ``version`` is from ``since`` on and before ``until``; what is no version is the newest."""
    found = re.match(r"v?(\d+(?:\.\d+)*(?:\.?post\d+)?)", version)
    if found is None:
        return until is None
    own = Version(found[1])
    return not (since and own < Version(since)) and not (
        until and own >= Version(until)
    )


def _plain(value: Value, kind: type[Value]) -> dict[str, Any]:
    """The fields of ``value`` that ``kind`` has."""
    return value.model_dump(include=set(kind.model_fields))


@functools.cache
def _file() -> QuirksFile:
    text = resources.files("lemnos.engines").joinpath("quirks.yaml").read_text()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return QuirksFile.model_validate(yaml.load(text, Loader=loader))
