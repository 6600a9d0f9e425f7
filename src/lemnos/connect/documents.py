"""Other tools' files: YAML, JSON and .env, edited key by key, everything else kept. Pure.

A document is read as nested mappings; a key of it is named by its path of keys. What an edit
changed is found by comparing the file before with the file after it, so it can be taken back
from a file that others have changed since.
"""

from __future__ import annotations

import difflib
import io
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from lemnos.errors import LemnosError

Kind = Literal["yaml", "json", "env"]
KeyPath = tuple[str, ...]


class Gone(Enum):
    """A key that is not there, or shall not be."""

    GONE = "gone"


GONE = Gone.GONE
Edits = Mapping[KeyPath, Any]
"""What keys shall be; GONE takes one away, and a mapping that is empty then."""


def read(kind: Kind, text: str, where: str) -> MutableMapping[str, Any]:
    """``text`` as nested mappings; an empty text is an empty one. Raises LemnosError."""
    data = {"yaml": _read_yaml, "json": _read_json, "env": _read_env}[kind](text, where)
    if data is None:
        return {}
    if not isinstance(data, MutableMapping):
        raise LemnosError("is not a mapping of keys to values", where=where)
    return data


def edited(kind: Kind, text: str, edits: Edits, where: str, like: Any = None) -> str:
    """``text`` with the keys of ``edits`` as they shall be, and everything else as it was.

    New keys come last, or where a document ``like`` this one has them. Raises LemnosError if the
    text cannot be read, or if an edit would reach other keys too.
    """
    if "\r\n" in text:
        made = edited(kind, text.replace("\r\n", "\n"), edits, where, like)
        return made.replace("\n", "\r\n")
    data = read(kind, text, where)
    if kind == "yaml" and (head := _YAML_HEAD.match(text)):
        return head[0] + edited(kind, text[head.end() :], edits, where, like)
    if all(value_at(data, path) == value for path, value in edits.items()):
        return text
    if kind == "env":
        return _edited_env(text, edits)
    for path, value in edits.items():
        _put(data, path, value, where, like)
    made = _written_yaml(data, text) if kind == "yaml" else _written_json(data, text)
    _check(read(kind, text, where), read(kind, made, where), edits, where)
    return made


@dataclass(frozen=True)
class Undone:
    """A file after an edit was taken back."""

    text: str
    kept: tuple[KeyPath, ...] = ()
    """Keys of the edit that others have changed since, and that stay."""


def undone(kind: Kind, before: str, after: str, now: str, where: str) -> Undone:
    """``now`` without what made ``after`` out of ``before``: each key that still is what the edit
    made of it becomes what it was."""
    if now == after:
        return Undone(before)
    old, new = read(kind, before, where), read(kind, after, where)
    present = read(kind, now, where)
    back: dict[KeyPath, Any] = {}
    kept = []
    for path in differences(old, new):
        is_now = value_at(present, path)
        if is_now == value_at(new, path):
            back[path] = value_at(old, path)
        elif is_now != value_at(old, path):
            kept.append(path)
    return Undone(edited(kind, now, back, where, old), tuple(kept))


def changes(kind: Kind, before: str, after: str, where: str) -> list[str]:
    """What an edit changed, a line for each key; secrets are not shown."""
    old, new = read(kind, before, where), read(kind, after, where)
    return [
        f"{'.'.join(path)}: {_shown(path, value_at(old, path))} -> {_shown(path, value_at(new, path))}"
        for path in differences(old, new)
    ]


_SECRET = re.compile(r"(TOKEN|API_?KEY|SECRET|PASSWORD)(?!.*_ENV$)", re.IGNORECASE)


def _shown(path: KeyPath, value: Any) -> str:
    if value is GONE:
        return "(not there)"
    secret = isinstance(value, str) and _SECRET.search(path[-1])
    return "(not shown)" if secret else str(value)


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], at: KeyPath = ()
) -> Iterator[KeyPath]:
    """The paths of the keys that are not the same in both; as deep as both are mappings, or one
    is and the other has nothing."""
    for key in (*old, *(key for key in new if key not in old)):
        one, two = old.get(key, GONE), new.get(key, GONE)
        if one == two:
            continue
        deep = [side for side in (one, two) if isinstance(side, Mapping)]
        if len(deep) == 2 or (deep and GONE in (one, two)):
            filled = [side if isinstance(side, Mapping) else {} for side in (one, two)]
            yield from differences(filled[0], filled[1], (*at, key))
        else:
            yield (*at, key)


def value_at(data: Any, path: KeyPath) -> Any:
    """What is at ``path``; GONE where nothing is."""
    for key in path:
        if not isinstance(data, Mapping) or key not in data:
            return GONE
        data = data[key]
    return data


def _put(data: Any, path: KeyPath, value: Any, where: str, like: Any) -> None:
    parents = [data]
    for depth, key in enumerate(path[:-1]):
        if parents[-1].get(key) is None:
            if value is GONE:
                return
            _insert(parents[-1], key, {}, value_at(like, path[:depth]))
        if not isinstance(parents[-1][key], MutableMapping):
            name = ".".join(path[: depth + 1])
            raise LemnosError(f"'{name}' is not a mapping of keys", where=where)
        parents.append(parents[-1][key])
    if value is not GONE:
        _insert(parents[-1], path[-1], value, value_at(like, path[:-1]))
        return
    for parent, key in zip(reversed(parents), reversed(path), strict=True):
        if key in parent:
            _delete(parent, key)
        if parent or getattr(parent, "merge", None):  # `<<` is not counted as a key
            return


def _insert(parent: Any, key: str, value: Any, like: Any) -> None:
    """Set a key; a new one goes before the first that follows it in ``like``."""
    if key in parent:
        old = parent[key]
        same_quotes = isinstance(old, str) and isinstance(value, str)
        parent[key] = type(old)(value) if same_quotes else value
        return
    order = list(like) if isinstance(like, Mapping) and key in like else []
    later = set(order[order.index(key) + 1 :]) if order else set()
    at = next((i for i, other in enumerate(parent) if other in later), len(parent))
    if hasattr(parent, "insert"):  # ruamel's
        parent.insert(at, key, value)
        return
    items = list(parent.items())
    parent.clear()
    parent.update([*items[:at], (key, value), *items[at:]])


def _delete(parent: Any, key: str) -> None:
    """Take a key away, but not the comments below it, which ruamel keeps with the key above."""
    before = list(parent)[: list(parent).index(key)]
    tokens: Any = parent.ca.items.get(key) if hasattr(parent, "ca") else None
    try:
        del parent[key]
    except KeyError:  # it came through a YAML merge (<<)
        return
    below = tokens[2].value.partition("\n")[2] if tokens and tokens[2] else ""
    if not below or not before:
        return
    above = parent.ca.items.setdefault(before[-1], [None, None, None, None])
    if above[2] is not None:
        above[2].value += below
        return
    tokens[2].value = "\n" + below
    above[2] = tokens[2]


def _check(old: Any, new: Any, edits: Edits, where: str) -> None:
    """YAML's aliases and merges carry an edit to where nobody wanted it, or undo it."""
    wrong = [path for path, value in edits.items() if not _is(new, path, value)]
    for path in differences(old, new):
        if not any(path[: len(edit)] == edit[: len(path)] for edit in edits):
            wrong.append(path)
    if wrong:
        raise LemnosError(
            f"'{'.'.join(map(str, wrong[0]))}' is shared with other keys (a YAML alias), so it cannot be edited alone",
            where=where,
            fix="write it out, without '&' and '*'",
        )


def _is(data: Any, path: KeyPath, value: Any) -> bool:
    return bool(value_at(data, path) == value)


def _read_json(text: str, where: str) -> Any:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{where}:{error.lineno}:{error.colno}"
        raise LemnosError(f"is not valid JSON: {error.msg}", where=place) from None
    except RecursionError:
        raise LemnosError("is nested too deeply", where=where) from None


def _written_json(data: Any, before: str) -> str:
    """In the style of the text before: its indentation, and its end."""
    indent = re.search(r"^([ \t]+)\S", before, re.MULTILINE)
    style = indent[1] if indent else 2
    end = "\n" if not before.strip() or before.endswith("\n") else ""
    return json.dumps(data, indent=style, ensure_ascii=False) + end


_STYLES = tuple(
    (mapping, offset + 2, offset) for mapping in (2, 4) for offset in (0, 2, 4)
)
"""Indentations that people write: of mappings, of sequences, and of their dashes."""


_YAML_HEAD = re.compile(r"\A(?:[ \t]*(?:#.*)?\n|%.*\n)*---[ \t]*(?:#.*)?\n")
"""What comes before the document; ruamel would drop its comments."""


def _yaml(style: tuple[int, int, int] = _STYLES[0]) -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()  # the round trip: comments, order, quotes
    yaml.preserve_quotes = True
    yaml.width = 1_000_000  # long lines are not for us to break
    mapping, sequence, offset = style
    yaml.indent(mapping=mapping, sequence=sequence, offset=offset)
    return yaml


def _read_yaml(text: str, where: str) -> Any:
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        problem = (error.problem or "it cannot be read").splitlines()[0]
        raise LemnosError(f"is not valid YAML: {problem}", where=place) from None
    except YAMLError as error:
        problem = str(error).splitlines()[0]
        raise LemnosError(f"is not valid YAML: {problem}", where=where) from None
    except (ValueError, RecursionError):
        raise LemnosError("is not valid YAML", where=where) from None


def _written_yaml(data: Any, before: str) -> str:
    """In the style that gives back the most of the text before; where a line of that is only
    spaced otherwise, it stays as it was."""
    lines = before.splitlines(keepends=True)

    def dumped(data: Any, style: tuple[int, int, int]) -> list[str]:
        stream = io.StringIO()
        _yaml(style).dump(data, stream)
        return stream.getvalue().splitlines(keepends=True)

    plain = {style: dumped(_yaml().load(before), style) for style in _STYLES}
    style = min(_STYLES, key=lambda style: _unlike(lines, plain[style]))
    made = dumped(data, style)
    if len(plain[style]) == len(lines):
        match = difflib.SequenceMatcher(None, plain[style], made, autojunk=False)
        made = [
            line
            for tag, i, j, k, m in match.get_opcodes()
            for line in (lines[i:j] if tag == "equal" else made[k:m])
        ]
    text = "".join(made)
    return text if before.endswith("\n") or not before else text.removesuffix("\n")


def _unlike(one: list[str], two: list[str]) -> int:
    return sum(a != b for a, b in itertools.zip_longest(one, two))


_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(.*?)\s*$")


def _read_env(text: str, where: str) -> dict[str, str]:
    """Each variable's value as it is written, quotes and all; the last one counts."""
    found = (_ASSIGNMENT.match(line) for line in text.splitlines())
    return {match[1]: _unquoted(match[2]) for match in found if match}


def _unquoted(value: str) -> str:
    try:
        words = shlex.split(value, comments=True)
    except ValueError:  # a quote that is not closed
        return value
    return words[0] if len(words) == 1 else value


def _edited_env(text: str, edits: Edits) -> str:
    lines = text.splitlines(keepends=True)
    for path, value in edits.items():
        (name,) = path
        at = [
            index
            for index, line in enumerate(lines)
            if (match := _ASSIGNMENT.match(line)) and match[1] == name
        ]
        if value is GONE:
            lines = [line for index, line in enumerate(lines) if index not in at]
            continue
        made = f"{name}={shlex.quote(value)}\n"
        if at:
            lines[at[-1]] = made
            continue
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines.append(made)
    return "".join(lines)
