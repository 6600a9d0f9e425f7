"""Kubernetes' words in a person's (``words.yaml``). Pure."""

from __future__ import annotations

import functools
import re
import signal as signals
from importlib import resources

from lemnos.errors import LemnosError, UsageError
from lemnos.spec.base import Value
from lemnos.spec.document import parse

# `with subresource "scale"`, `using apps/v1`, `at 2026-11-21T21:40:05Z` may stand between.
_CONFLICT = re.compile(r'conflicts? with "([^"]+)"[^\n]*?:((?:\s+(?:- )?\.\S+)+)')
_NOISE = re.compile(r"^(?:E\d{4} |Warning: |Please review|I\d{4} )")


class Refusal(Value):
    """An answer of kubectl: the pattern ``says``, and its meaning."""

    says: str
    what: str
    fix: str
    where: str
    wrong: bool = False
    """It is the request that is wrong."""


class Saying(Value):
    """A part of the scheduler's words, and its meaning."""

    says: str
    what: str


class Words(Value):
    """The whole of ``words.yaml``."""

    refusals: tuple[Refusal, ...]
    kinds: dict[str, str]
    unschedulable: tuple[Saying, ...]
    waits: dict[str, str]
    images: tuple[str, ...]
    never: dict[str, str]
    ended: dict[str, str]
    leaving: dict[str, str]


@functools.cache
def words() -> Words:
    """The table."""
    text = resources.files(__package__).joinpath("words.yaml").read_text()
    return parse(text, Words, where="kubernetes/words.yaml")


def refused(said: str, doing: str = "kubectl fails") -> LemnosError:
    """What kubectl said, in words; ``doing`` introduces what no pattern knows."""
    if found := conflicts(said):
        return _conflict(found)
    for each in words().refusals:
        match = re.search(each.says, said)
        if not match:
            continue
        known = _known(match)
        kind = UsageError if each.wrong else LemnosError
        return kind(
            each.what.format_map(known).rstrip(": "),
            where=each.where.format_map(known),
            fix=each.fix.format_map(known),
        )
    return LemnosError(
        f"{doing}: {own_words(said) or 'it says nothing'}", where="kubernetes"
    )


def conflicts(said: str) -> list[tuple[str, str]]:
    """(manager, field) of every conflict in what ``kubectl apply --server-side`` said."""
    return [
        (manager, field)
        for manager, fields in _CONFLICT.findall(said)
        for field in re.findall(r"\.\S+", fields)
    ]


def own_words(said: str) -> str:
    """kubectl's own words on one line, without its logging; at most 300 characters."""
    lines = [line for line in said.splitlines() if not _NOISE.match(line)]
    plain = " ".join(" ".join(lines or said.splitlines()).split())
    return re.sub(r"^error: |Error from server(?: \(\w+\))?: ", "", plain)[-300:]


def no_kind(group: str) -> str:
    """What installs the kinds of an API group."""
    return words().kinds.get(group, "install what adds it, or leave it out of the spec")


def unschedulable(message: str) -> str:
    """Why no node takes a pod, from the scheduler's message."""
    nodes = re.search(r"0/(\d+) nodes are available", message)
    reasons = message.partition("preemption:")[0]
    found = [
        each.what.format_map(_known(match))
        for each in words().unschedulable
        for match in re.finditer(each.says, reasons)
    ]
    if not found:
        return f"the scheduler has no node for it: {message}" if message else "no node takes it yet"  # fmt: skip
    of = f"none of {nodes[1]} nodes takes it: " if nodes else ""
    return of + ", ".join(found)


def code_in_words(code: int) -> str:
    """An exit code: 128 and a signal's number for a process that was killed."""
    if 128 < code < 192:
        try:
            return f"was killed by {signals.Signals(code - 128).name}"
        except ValueError:
            return f"was killed by signal {code - 128}"
    return f"ended with exit code {code}"


def _conflict(found: list[tuple[str, str]]) -> LemnosError:
    managers = sorted({manager for manager, _ in found})
    fields = ", ".join(field for _, field in found[:4])
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    s = "" if len(managers) > 1 else "s"
    return LemnosError(
        f"'{', '.join(managers)}' manage{s} {fields}{more} there, with another value",
        where="kubernetes",
        fix="leave the field to it (change the spec, or undo its change), or take it over: "
        "'lemnos up --dry-run --output DIR', then "
        "'kubectl apply --server-side --field-manager=lemnos --force-conflicts -k DIR'",
    )


class _Known(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "(unknown)"


def _known(match: re.Match[str]) -> _Known:
    """The pattern's groups; ``why2`` is another place of ``why``."""
    found = _Known()
    for name, value in match.groupdict().items():
        if value:
            found[name.rstrip("2")] = " ".join(value.split())
    group = found.get("group", "")
    if "resource" in found:
        found["qualified"] = found["resource"] + (f".{group}" if group else "")
        found.setdefault("user", "USER")
    if "version" in found:
        found["install"] = no_kind(found["version"].rpartition("/")[0])
    return found
