"""What a release's ``add_argument`` calls mean, as rows for ``lemnos.engines.flags``' tables."""

from __future__ import annotations

import argparse
import ast
import enum
import json
import re
import typing
from collections.abc import Iterable
from typing import Any

from flags.collect import Added
from flags.names import Function, Unknown
from flags.natives import FieldInfo, fields, is_record

# How a value is read, by the name of the engine's function that reads it: (kind, reads).
READERS = {
    "human_readable_int": ("int", "human"),  # vLLM's; SGLang's knows Ki
    "human_readable_int_or_auto": ("int", "human-or-auto"),
    "union_dict_and_str": ("text", "json-or-text"),
    "nullable_str": ("text", ""),
    "parse_reasoning_parser": ("text", ""),
    "json_list_type": ("json", "strict"),
    "parse_cuda_graph_config_arg": ("json", "graph-phases"),
    "parse_cuda_graph_backend_arg": ("text", ""),
    "nullable_int": ("int", "optional"),
    "nullable_float": ("float", "optional"),
    "_nullable_int": ("int", "optional"),
    "_nullable_float": ("float", "optional"),
    "from_json": ("json", ""),
    "from_cli": ("json", "literal"),
}
ACTIONS = {"LoRAParserAction": "lora-modules", "LoRAPathAction": "lora-paths"}
FLAGS = ("store_true", "store_false", "store_const", "count", "help", "version")
LONGEST = 160  # of a deprecation's text


def row(one: Added, notes: list[str]) -> dict[str, Any] | None:
    """An option as the tables have it; None for a positional.

    ``notes`` gets a sentence for each reader that is not known: its values count as text.
    """
    if not one.names[0].startswith("-"):
        return None
    more = one.more
    names = sorted(one.names, key=lambda name: not name.startswith("--"))
    if "-" in names[0][2:] and any(_abbreviates(names[0], name) for name in names):
        # SGLang writes --tp-size first in some releases, --tensor-parallel-size in others.
        names.sort(key=lambda name: (not name.startswith("--"), -len(name)))
    action = more.get("action")
    kind, reads = reader(more.get("type"), names[0], notes)
    made: dict[str, Any] = {"names": names, "kind": kind}
    many = nargs(more, action)
    if action in FLAGS or action is argparse.BooleanOptionalAction or many == 0:
        made["kind"], reads, many = "flag", "", None
    made["many"] = "" if many is None else str(many)
    made["twin"] = action is argparse.BooleanOptionalAction
    made["choices"] = choices(more.get("choices"))
    if kind == "text" and reads == "optional" and not made["choices"]:
        reads = ""  # any text passes
    made["default"] = plain(more.get("default"))
    made["deprecated"] = deprecated(more, action)
    made["open_keys"] = made["kind"] == "json" or reads == "json-or-text"
    made["reads"] = ACTIONS.get(getattr(action, "__name__", ""), reads)
    made["front"] = more.get("front", False)
    made["required"] = more.get("required") is True
    if action == "append":
        made["reads"] = "append"
    if "error_message" in more or _raises(action):
        made["reads"] = "refused"
    keep = ("names", "kind")
    return {
        k: v for k, v in made.items() if k in keep or v not in ("", (), [], None, False)
    }


def _abbreviates(name: str, other: str) -> bool:
    """Whether ``--tp-size`` stands for ``--tensor-parallel-size``: initials, then the same end."""
    short, _, end = name[2:].partition("-")
    words, _, tail = other[2:].rpartition(f"-{end}")
    return (
        not tail
        and len(short) > 1
        and "".join(w[:1] for w in words.split("-")) == short
    )


def _raises(action: Any) -> bool:
    """Whether an action class does nothing but refuse (SGLang's DeprecatedAction up to 0.5.11)."""
    call = vars(action).get("__call__") if isinstance(action, type) else None
    return isinstance(call, Function) and isinstance(call.node.body[-1], ast.Raise)


def reader(read: Any, name: str, notes: list[str]) -> tuple[str, str]:
    """(kind, reads) of an argument's ``type``."""
    if read in (None, str) or isinstance(read, Unknown):
        return "text", ""
    if read in (int, float):
        return read.__name__, ""
    if read is json.loads:
        return "json", ""
    if read is bool:
        return "text", ""  # argparse calls bool("False"), which takes anything
    if isinstance(read, Function):
        return _function(read, name, notes)
    called = _method(read)
    if called in READERS:
        return READERS[called]
    notes.append(f"{name}: its type {read!r} is not known")
    return "text", ""


def _function(read: Function, name: str, notes: list[str]) -> tuple[str, str]:
    inner = read.scope.get("return_type", read.scope.get("func"))
    if read.__name__.startswith("validate_"):
        return "text", ""  # Dynamo's: a path that is there, a name that is not empty
    if read.__name__ in ("_parse_type", "_optional_type"):
        kind, reads = reader(inner, name, notes)
        optional = read.__name__ == "_optional_type"
        return kind, f"optional {reads}".strip() if optional else reads
    if read.__name__ == "parse_dataclass":
        return "json", f"config:{read.defaults['cls'].__name__}"
    if read.__name__ == "lambda" and ".lower()" in ast.unparse(read.node):
        return "text", "lowered"
    if "'Ki'" in ast.unparse(read.node):
        return "int", "human-tokens"
    if read.__name__ in READERS:
        return READERS[read.__name__]
    for (
        inner
    ) in read.defaults.values():  # lambda x, f=KVTransferConfig: f(**json.loads(x))
        if is_record_class(inner):
            return "json", f"config:{inner.__name__}"
        if _method(inner) in READERS:
            return READERS[_method(inner)]
    notes.append(f"{name}: what {read.__name__}() takes is not known")
    return "text", ""


def _method(read: Any) -> str:
    """The name of a bound method of the sources (``PoolerConfig.from_json``)."""
    for cell in getattr(read, "__closure__", None) or ():
        if isinstance(cell.cell_contents, Function):
            return cell.cell_contents.__name__
    return ""


def nargs(more: dict[str, Any], action: Any) -> Any:
    """argparse's nargs, that of an action class's own ``__init__`` included."""
    if "nargs" in more:
        return more["nargs"]
    made = getattr(action, "__init__", None)
    return made.defaults.get("nargs") if isinstance(made, Function) else None


def choices(given: Any) -> list[str]:
    """The words of a ``choices``, sorted; none where they are not known."""
    if given is None or isinstance(given, Unknown) or not isinstance(given, Iterable):
        return []
    values = [plain(one) for one in given if one is not None]
    return sorted({str(value) for value in values if value is not None})


def plain(value: Any) -> str | int | float | bool | None:
    """A value that JSON has; None for any other, and for argparse's SUPPRESS."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    known = isinstance(value, str | int | float | bool) and value != argparse.SUPPRESS
    return value if known else None


def deprecated(more: dict[str, Any], action: Any) -> str:
    """What the engine says to use instead, "deprecated" if no more, "" for a good option."""
    text = str(more["help"]) if isinstance(more.get("help"), str) else ""
    says = re.match(r"\W*deprecated\b", text, re.IGNORECASE) is not None
    named = "Deprecated" in getattr(action, "__name__", "")
    if not (says or named or more.get("deprecated") is True or "error_message" in more):
        return ""
    found = more.get("error_message") or more.get("new_flag")
    if found:
        return str(found)[:LONGEST]
    words = re.sub(r"^\W*deprecated\b\W*", "", " ".join(text.split()), flags=re.I)
    sentences = re.split(r"(?<=[.;)])\s+", words)
    advice = (one for one in sentences if re.search(r"\buse\b|instead|--", one, re.I))
    return next(advice, "deprecated")[:LONGEST].rstrip(" .;)") or "deprecated"


def configs(added: list[Added]) -> dict[str, dict[str, str]]:
    """The config classes that options read, with a word for what each field takes."""
    found: dict[str, dict[str, str]] = {}
    waiting = [cls for one in added for cls in _classes(one.more.get("type"))]
    while waiting:
        cls = waiting.pop()
        if cls.__name__ in found:
            continue
        # "!" says that this class takes no other keys, whatever the release's others do.
        found[cls.__name__] = {"!": ""} if vars(cls).get("__closed__") else {}
        for field in fields(cls):
            if "InitVar" in repr(field.type) or not _given(field):
                continue
            found[cls.__name__][field.name] = word(field.type, _bounds(cls, field))
            waiting += [part for part in parts(field.type) if is_record_class(part)]
    return found


def _given(field: Any) -> bool:
    """Whether a field can be given: ``field(init=False)`` cannot."""
    return field.init is True and getattr(field.default, "init", True) is True


def _bounds(cls: type, field: Any) -> dict[str, Any]:
    """The bounds of pydantic's ``Field(ge=0)``; "null" where None passes all the same."""
    notes = typing.get_args(field.type)[1:] if _annotated(field.type) else ()
    found: dict[str, Any] = {}
    for info in (*notes, field.default):
        if isinstance(info, FieldInfo):
            found.update(info.bounds)
    found["null"] = field.name in vars(cls).get("__nullable__", ())
    return found


def _annotated(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Annotated


def is_record_class(value: Any) -> bool:
    """Whether a value is a dataclass of the sources."""
    return isinstance(value, type) and is_record(value)


def _classes(read: Any) -> list[type]:
    while isinstance(read, Function):
        if read.__name__ == "parse_dataclass":
            return [read.defaults["cls"]]
        read = read.scope.get("return_type")
    return []


def parts(hint: Any) -> list[Any]:
    """The members of a union, without Annotated's notes; a single type is its own member."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return parts(typing.get_args(hint)[0])
    if origin is typing.Union or "UnionType" in str(origin):
        return [part for arg in typing.get_args(hint) for part in parts(arg)]
    return [hint]


def word(hint: Any, bounds: dict[str, Any]) -> str:
    """A field's type in a few letters: ``int>=0|null``, ``"a","b"``, ``[str]``, ``@PassConfig``.

    ``~A,B`` is an enumeration, by its members' names or values; ``{}+`` an object that is not
    empty; ``?`` anything: a type whose values only the engine can judge.
    """
    words = [_word(part) + _bounded(part, bounds) for part in parts(hint)]
    words += ["null"] if bounds.get("null") else []
    return "|".join(dict.fromkeys(words))


def _bounded(hint: Any, bounds: dict[str, Any]) -> str:
    if hint in (int, float):
        signs = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        given = [(sign, bounds.get(key)) for key, sign in signs]
        return "".join(f"{s}{n}" for s, n in given if isinstance(n, int | float))
    filled = bounds.get("min_length") == 1 and (
        hint is dict or typing.get_origin(hint) is dict
    )
    return "+" if filled else ""


def _word(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if hint is type(None):
        return "null"
    if origin is typing.Literal:
        return ",".join(json.dumps(arg) for arg in typing.get_args(hint))
    if hint in (int, float, str, bool):
        return str(hint.__name__)
    if (
        hint is dict
        or origin is dict
        or (isinstance(hint, type) and issubclass(hint, dict))
    ):
        return "{}"
    if origin in (list, set, tuple) or hint in (list, set, tuple):
        items = {_word(part) for arg in typing.get_args(hint) for part in parts(arg)}
        return (
            f"[{items.pop()}]" if len(items) == 1 and items <= {"str", "int"} else "[]"
        )
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        members = [str(w) for m in hint for w in (m.name, plain(m.value))]
        return "~" + ",".join(dict.fromkeys(w for w in members if "|" not in w))
    if is_record_class(hint):
        return f"@{hint.__name__}"
    return "str" if getattr(hint, "__module__", "") == "pathlib" else "?"
