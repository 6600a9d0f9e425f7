"""What the sources may use for real: harmless parts of the standard library, and classes.

A class of the sources becomes a real class whose methods are interpreted, so that ``typing``,
``enum`` and inheritance work on it as they do where the engine runs.
"""

from __future__ import annotations

import argparse
import ast
import collections
import copy
import dataclasses
import enum
import functools
import itertools
import json
import math
import re
import types
import typing
from typing import Any

from flags.expressions import Expressions, Native
from flags.names import Function, Scope, Unknown

MISSING = dataclasses.MISSING
RECORDS = ("dataclass", "config")  # decorators that make a class a dataclass


class Field:
    """A field of a record of the sources, as ``dataclasses.fields`` gives it."""

    def __init__(self, name: str, hint: Any, default: Any, factory: Any) -> None:
        self.name = name
        self.type = hint
        self.default = default
        self.default_factory = factory
        self.init = True
        self.metadata: dict[str, Any] = {}


class FieldInfo:
    """What pydantic's ``Field(...)`` gives."""

    def __init__(self, default: Any = ..., **more: Any) -> None:
        self.default = default
        self.default_factory = more.get("default_factory")
        self.init = more.get("init", True)
        self.bounds = more


class Declared:
    """What ``dataclasses.field(...)`` and ``msgspec.field(...)`` give."""

    def __init__(self, default: Any = MISSING, **more: Any) -> None:
        self.default = default
        self.default_factory = more.get("default_factory", MISSING)
        self.metadata = more.get("metadata", {})
        self.init = more.get("init", True)


def fields(owner: Any) -> tuple[Field, ...]:
    """``dataclasses.fields`` and ``msgspec.structs.fields`` of a class of the sources."""
    found: dict[str, Field] = {}
    for cls in reversed(owner.__mro__):
        for name, hint in cls.__dict__.get("__annotations__", {}).items():
            if typing.get_origin(hint) is typing.ClassVar or hint is typing.ClassVar:
                continue
            default = cls.__dict__.get(name, MISSING)
            if isinstance(default, Declared):
                made = Field(name, hint, default.default, default.default_factory)
                made.metadata = default.metadata
                made.init = default.init
            else:
                made = Field(name, hint, default, MISSING)
            found[name] = made
    return tuple(found.values())


def is_record(owner: Any) -> bool:
    """``dataclasses.is_dataclass``."""
    cls = owner if isinstance(owner, type) else type(owner)
    return any(base.__dict__.get("__record__", False) for base in cls.__mro__)


def make(
    world: Expressions, node: ast.ClassDef, scope: Scope, bases: list[Any], body: Scope
) -> type:
    """A real class for a class of the sources."""
    plain = [typing.get_origin(base) or base for base in bases]  # dict[str, X] is dict
    known = tuple(b for b in plain if isinstance(b, type)) or (object,)
    names: dict[str, Any] = dict(body)
    kind = next((b for b in known if issubclass(b, enum.Enum)), None)
    if kind is not None:
        members = {
            k: v
            for k, v in names.items()
            if not k.startswith("_") and not _callable(v) and not isinstance(v, Unknown)
        }
        create: Any = enum.Enum  # called with a name that is worked out, not written
        made_enum = create(node.name, members, type=_mixed_in(known))
        return typing.cast(type, made_enum)
    decorators = [
        ast.unparse(d).partition("(")[0].split(".")[-1] for d in node.decorator_list
    ]
    names["__module__"] = scope.module.name
    names["__nullable__"] = nullable(node)
    names["__closed__"] = any("'forbid'" in ast.unparse(d) for d in node.decorator_list)
    if any(name in RECORDS for name in decorators):
        names["__record__"] = True
    if "__init__" not in names and names["__annotations__"]:
        names["__init__"] = _fill
    try:
        made = type(node.name, known, names)
    except TypeError:  # bases that do not go together: one of them stands for all
        made = type(node.name, known[:1], names)
    inner = Scope(scope.module, scope)
    inner["__class__"] = made
    for value in body.values():
        function = getattr(value, "__func__", value)
        if isinstance(function, Function):
            function.scope = inner
    return made


def nullable(node: ast.ClassDef) -> set[str]:
    """The fields that take None although their type does not say so: a validator lets it pass."""
    found: set[str] = set()
    for method in node.body:
        if not isinstance(method, ast.FunctionDef) or "none" not in method.name.lower():
            continue
        for decorator in method.decorator_list:
            words = ast.unparse(decorator)
            if "field_validator" in words and "wrap" in words:
                args = getattr(decorator, "args", [])
                found |= {str(a.value) for a in args if isinstance(a, ast.Constant)}
    return found


def _mixed_in(bases: tuple[type, ...]) -> type | None:
    """``str`` for StrEnum and ``class X(str, Enum)``: members compare with plain values."""
    return next((k for k in (str, int) if any(issubclass(b, k) for b in bases)), None)


def _callable(value: Any) -> bool:
    return isinstance(value, Function | staticmethod | classmethod | property)


def _fill(self: Any, *args: Any, **more: Any) -> None:
    """A record's ``__init__``: fields by place and by name, else their defaults."""
    order = fields(type(self))
    given = {f.name: arg for f, arg in zip(order, args, strict=False)} | more
    for field in order:
        if field.name in given:
            setattr(self, field.name, given[field.name])
        elif field.default_factory is not MISSING:
            setattr(self, field.name, field.default_factory())
        elif field.default is not MISSING:
            setattr(self, field.name, field.default)
    post = getattr(type(self), "__post_init__", None)
    if isinstance(post, Function):
        try:
            post(self)
        except Exception:
            return


def defstruct(name: str, wanted: Any, **more: Any) -> type:
    """``msgspec.defstruct``: a record out of (name, type[, default]) tuples."""
    names = dict(more.get("namespace", {}))
    names["__annotations__"] = {part[0]: part[1] for part in wanted}
    names.update({part[0]: part[2] for part in wanted if len(part) > 2})
    return type(name, (Struct,), names)


class Struct:
    """``msgspec.Struct``."""

    __record__ = True
    __init__ = _fill


def hints(owner: Any, **more: Any) -> dict[str, Any]:
    """``typing.get_type_hints``: the hints of a class of the sources are worked out already."""
    found: dict[str, Any] = {}
    for cls in reversed(owner.__mro__):
        found.update(cls.__dict__.get("__annotations__", {}))
    return found


def same(function: Any = None, *args: Any, **more: Any) -> Any:
    """A decorator that changes nothing, with or without arguments."""
    return function if isinstance(function, Function) else same


def some(module: types.ModuleType, names: str) -> dict[str, Any]:
    """Some names of a real module."""
    return {name: getattr(module, name) for name in names.split()}


TYPING = {name: getattr(typing, name) for name in typing.__all__}
TYPING |= {"get_type_hints": hints, "TYPE_CHECKING": False, "cast": lambda kind, it: it}
TYPING |= {"overload": same, "dataclass_transform": same, "NamedTuple": object}
TYPING |= {"TypedDict": dict, "Protocol": object, "is_typeddict": lambda it: False}
TYPING |= {"TypeAliasType": lambda name, value, **more: value, "Generic": object}
TYPING |= {"override": same, "TypeVar": lambda name, *rest, **more: Unknown(name)}
DATACLASSES = {
    "fields": fields,
    "is_dataclass": is_record,
    "MISSING": MISSING,
    "field": Declared,
    "dataclass": same,
    "Field": Field,
}
STRUCTS = {"fields": fields, "NODEFAULT": MISSING}
ABC = some(
    collections.abc, "Callable Iterable Sequence Mapping MutableMapping Iterator Set"
)
PARSING = some(
    argparse, "BooleanOptionalAction ArgumentTypeError SUPPRESS ArgumentError"
)
PARSING |= some(argparse, "REMAINDER OPTIONAL ZERO_OR_MORE ONE_OR_MORE Namespace")
PARSING |= {"Action": type("Action", (), {})}


class Environment:
    """An empty ``os.environ``: a release's defaults are those of a clean shell."""

    def get(self, name: str, default: Any = None) -> Any:
        """Always the default."""
        return default

    def __contains__(self, name: object) -> bool:
        return False


NATIVES: dict[str, dict[str, Any]] = {
    "typing": TYPING,
    "typing_extensions": TYPING,
    "dataclasses": DATACLASSES,
    "pydantic.dataclasses": DATACLASSES,
    "pydantic": {"Field": FieldInfo},
    "pydantic.fields": {"Field": FieldInfo, "FieldInfo": FieldInfo},
    "msgspec": {"Struct": Struct, "field": Declared, "defstruct": defstruct, **STRUCTS},
    "msgspec.structs": STRUCTS,
    "enum": some(enum, "Enum IntEnum StrEnum Flag IntFlag auto EnumMeta"),
    "json": some(json, "loads dumps JSONDecodeError"),
    "json.decoder": some(json, "JSONDecodeError"),
    "re": some(re, "match fullmatch search sub split compile escape IGNORECASE DOTALL"),
    "regex": some(
        re, "match fullmatch search sub split compile escape IGNORECASE DOTALL"
    ),
    "functools": {
        "lru_cache": same,
        "cache": same,
        "wraps": same,
        "partial": functools.partial,
    },
    "argparse": PARSING,
    "sys": {"argv": ["vllm", "serve"], "version_info": (3, 12), "modules": {}},
    "os": {"getenv": Environment().get, "environ": Environment()},
    "collections": some(
        collections, "defaultdict OrderedDict namedtuple Counter deque"
    ),
    "collections.abc": ABC,
    "copy": some(copy, "copy deepcopy"),
    "itertools": some(itertools, "chain product"),
    "types": some(types, "UnionType SimpleNamespace"),
    "math": some(math, "inf ceil floor log2"),
    "@classes": {"make": make},
    # Functions of the sources that read sources themselves: a field's docstring is its help.
    "@functions": {"get_attr_docs": lambda cls: collections.defaultdict(str)},
}
NATIVES["msgspec"]["structs"] = Native(STRUCTS, "msgspec.structs")
