"""YAML documents to values, with file, line and key in every error."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from yaml.error import MarkedYAMLError

from lemnos.errors import LemnosError, UsageError
from lemnos.spec.base import Value

T = TypeVar("T", bound=Value)

SPEC_VERSION = 1
"""The newest version of written documents that this lemnos reads."""


def load(path: Path, kind: type[T]) -> T:
    """The document at ``path`` as a ``kind``. Raises UsageError with file, line and key."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError("is not UTF-8 text", where=str(path)) from None
    except OSError as error:
        raise LemnosError(
            f"cannot be read ({error.strerror})", where=str(path)
        ) from None
    return parse(text, kind, where=str(path))


def parse(text: str, kind: type[T], *, where: str) -> T:
    """``text`` (YAML) as a ``kind``; ``where`` names it in errors."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node else None
    except yaml.YAMLError as error:
        raise UsageError(
            _yaml_problem(error), where=_yaml_place(error, where)
        ) from None
    except RecursionError:
        raise UsageError("is nested too deeply", where=where) from None
    if not isinstance(data, dict):
        raise UsageError(
            "is not a mapping of keys to values",
            where=where,
            fix="start with a line such as 'model: smollm2-135m-instruct'",
        )
    _refuse_newer(data, node, where)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _explain(error, node, where) from None


def validated(kind: type[T], data: dict[str, Any]) -> T:
    """``data`` that came from flags or an API call as a ``kind``. Raises UsageError."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise _explain(error, None, "") from None


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which has ``true`` and ``false`` alone for booleans, as YAML 1.2 (``on`` is
    one of our keys, ``no`` a country); which also refuses a key that is given twice, and says where
    (as YAMLError, like all its errors) when a scalar is no value: ``2026-13-45``."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in mapping.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise MarkedYAMLError(
                    problem=f"'{key.value}' is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return mapping

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            if isinstance(node, yaml.ScalarNode):
                node.value.encode()  # half a surrogate pair is no text
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            raise MarkedYAMLError(
                problem=f"{ascii(node.value)[:40]} cannot be read as {kind}",
                problem_mark=node.start_mark,
            ) from None


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [each for each in found if each[0] != _BOOL]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _BOOL, re.compile("true|True|TRUE|false|False|FALSE"), list("tTfF")
)


def _yaml_problem(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"is not valid YAML: {problem}"


def _yaml_place(error: yaml.YAMLError, where: str) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where


def _refuse_newer(data: dict[str, Any], node: yaml.Node | None, where: str) -> None:
    version = data.get("version", SPEC_VERSION)
    if isinstance(version, int) and SPEC_VERSION < version < 10_000:
        raise UsageError(
            f"is written for a newer lemnos (version {version}; this one reads up to {SPEC_VERSION})",
            where=f"{where}:{_line(node, ('version',))}",
            fix="upgrade lemnos, or write 'version: 1' and drop the newer keys",
        )


def _explain(error: ValidationError, node: yaml.Node | None, where: str) -> UsageError:
    """All that is wrong, each with its line; the first gives the place."""
    problems = []
    for item in error.errors():
        loc = item["loc"]
        if item["type"] == "unknown_key":
            loc = (*loc, str(item["ctx"]["key"]))
        key = ".".join(str(part) for part in loc) or "document"
        place = f"{where}:{_line(node, loc)}" if where else ""
        problem = item["msg"].removeprefix("Value error, ")
        if item["type"] == "model_type":
            problem = "needs keys and values of its own"
        problems.append((place, f"{key}: {problem}"))
    place, first = problems[0]
    rest = [": ".join(filter(None, problem)) for problem in problems[1:]]
    return UsageError("\n".join([first, *rest]), where=place)


def _line(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """The line (from 1) of the deepest node on the way to ``loc`` that the text has."""
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if p[0].value == str(part)), None)
            if pair is None:
                break
            line = pair[0].start_mark.line + 1
            node = pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
