"""Whether an engine would read a value: what passes for each kind of option."""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from lemnos.engines.flags.schema import Option, Schema, checks

_SIZES = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_TOKENS = re.compile(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T)")
_QUOTED = re.compile(r'("(?:[^"\\]|\\.)*")')
_BARE_SIZE = re.compile(r"\b\d+(?:\.\d+)?[kKmMgGtT]\b")
_TRUE_WORDS = {"1", "0", "true", "false", "t", "f", "yes", "no", "y", "n", "on", "off"}
_BOUNDED = re.compile(r"(int|float)([<>].*)")
_PHASES = {"decode", "prefill"}


def fault(schema: Schema, option: Option, word: str) -> tuple[str, str] | None:
    """What is wrong with one value: ("value" or "choice", a sentence); None if nothing is."""
    optional = option.reads.startswith("optional")
    if optional and word in ("", "None"):
        return None
    try:
        read = _read(schema, option, word)
    except (ValueError, TypeError, RecursionError) as error:
        return (
            "value",
            f"{option.names[0]} takes {wanted(option)}, not '{word}': {_brief(error)}",
        )
    if not option.choices or str(read) in option.choices:
        return None
    return "choice", f"{option.names[0]} takes one of {_listed(option)}, not '{word}'"


def wanted(option: Option) -> str:
    """What an option takes, in words."""
    if option.choices:
        return f"one of {_listed(option)}"
    kinds = {
        "int": "a whole number",
        "float": "a number",
        "json": "JSON",
        "flag": "no value",
    }
    if option.reads.endswith(("human", "human-or-auto")):
        return "a whole number (1k, 2K, 1.5M are numbers too)"
    return kinds.get(option.kind, "a text")


def _listed(option: Option) -> str:
    return ", ".join(option.choices[:12]) + (
        ", ..." if len(option.choices) > 12 else ""
    )


def _brief(error: Exception) -> str:
    return str(error).split("\n")[0][:100]


def _read(schema: Schema, option: Option, word: str) -> Any:
    """The value that the engine would make of a word; raises ValueError where it would refuse."""
    name = option.reads.removeprefix("optional").strip()
    if name.startswith("config:"):
        return read_config(schema, name.removeprefix("config:"), word)
    if name in _READERS:
        return _READERS[name](word)
    if option.kind == "int":
        return int(word)
    if option.kind == "float":
        return float(word)
    if option.kind == "json":
        return json.loads(word)
    return word


def size(word: str) -> int:
    """vLLM's ``1k`` (1,000), ``1K`` (1,024), ``25.6k``; raises ValueError."""
    found = _SIZES.fullmatch(word.strip())
    if not found:
        return int(word.strip())
    number, suffix = found.groups()
    power = "kmgt".index(suffix.lower()) + 1
    if suffix.islower():
        return int(float(number) * 1000**power)
    return int(int(number) * 1024**power)


def _size_or_auto(word: str) -> int:
    if word.strip() == "-1" or word.strip().lower() == "auto":
        return -1
    return size(word)


def _tokens(word: str) -> int:
    """SGLang's ``1k``, ``1.5M``, ``1Ki``."""
    found = _TOKENS.fullmatch(word.strip())
    if not found:
        return int(word.strip())
    number, suffix = found.groups()
    power: int = "kmgt".index(suffix[0].lower()) + 1
    return (
        int(number) * 1024**power
        if suffix.endswith("i")
        else int(float(number) * 1000**power)
    )


def _json_or_text(word: str) -> Any:
    if not re.match(r"(?s)^\s*{.*}\s*$", word):
        return word
    return json.loads(word)


def _graph_phases(word: str) -> Any:
    """SGLang's --cuda-graph-config: phases, each with its settings."""
    read = json.loads(word)
    if not isinstance(read, dict):
        raise ValueError("a JSON object is needed")
    for phase, settings in read.items():
        if phase not in _PHASES:
            raise ValueError(f"no phase '{phase}': {' or '.join(sorted(_PHASES))}")
        if not isinstance(settings, dict):
            raise ValueError(f"the settings of '{phase}' are a JSON object")
    return read


def _literal(word: str) -> Any:
    """Old vLLM's --compilation-config: a level, or an object in JSON or Python."""
    try:
        return json.loads(word)
    except ValueError:
        pass
    try:
        read = ast.literal_eval(word)
    except (SyntaxError, ValueError) as error:
        raise ValueError("a JSON object is needed") from error
    return read


def _lora_module(word: str) -> Any:
    """vLLM's --lora-modules: name=path, or an object with name, path and base_model_name."""
    if not word or ("=" in word and "," not in word):
        return word
    read = json.loads(word)
    if not isinstance(read, dict):
        raise ValueError("name=path or a JSON object is needed")
    if (
        not {"name", "path"}
        <= set(read)
        <= {"name", "path", "base_model_name", "is_3d_lora_weight"}
    ):
        raise ValueError("a module has name, path and base_model_name")
    return word


def _lora_path(word: str) -> Any:
    """SGLang's --lora-paths: a path, name=path, or an object with lora_name and lora_path."""
    text = word.strip()
    if not (text.startswith("{") and text.endswith("}")):
        return word
    if not {"lora_name", "lora_path"} <= set(json.loads(text)):
        raise ValueError("lora_name and lora_path are needed")
    return word


_READERS: Mapping[str, Callable[[str], Any]] = {
    "human": size,
    "human-or-auto": _size_or_auto,
    "human-tokens": _tokens,
    "json-or-text": _json_or_text,
    "strict": orjson.loads,
    "graph-phases": _graph_phases,
    "lora-modules": _lora_module,
    "lora-paths": _lora_path,
    "literal": _literal,
    "lowered": lambda word: word.lower().replace("-", "_"),
}


def read_config(schema: Schema, name: str, word: str) -> Any:
    """The JSON of one of vLLM's config classes; raises ValueError for a key or value it lacks.

    Numbers may be written as 2k. What the classes check beyond their fields' types is the
    engine's own to say.
    """
    parts = _QUOTED.split(word)
    parts[::2] = [
        _BARE_SIZE.sub(lambda m: str(size(m.group())), part) for part in parts[::2]
    ]
    read = orjson.loads("".join(parts))
    _check(schema, f"@{name}", read, name)
    return read


def _check(schema: Schema, kinds: str, value: Any, where: str) -> None:
    """Raise ValueError if no kind of a field takes a value (kinds: see scripts/flags/rows.py)."""
    first: ValueError | None = None
    for kind in kinds.split("|"):
        try:
            _check_one(schema, kind, value, where)
            return
        except ValueError as error:
            first = first or error
    raise first or ValueError(where)


def _check_one(schema: Schema, kind: str, value: Any, where: str) -> None:
    if kind.startswith("@"):
        _check_fields(schema, kind[1:], value, where)
        return
    if kind == "?" or _takes(kind, value):
        return
    raise ValueError(f"{where} is {_words(kind)}, not {orjson.dumps(value).decode()}")


def _check_fields(schema: Schema, name: str, value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is a JSON object")
    for check in checks(schema.engine, name):
        _check_together(check, value)
    known = schema.configs.get(name)
    if known is None:
        return
    for key, inner in value.items():
        if key in known:
            _check(schema, known[key], inner, f"{where}.{key}")
        elif "closed-configs" in schema.rules or "!" in known:
            raise ValueError(f"{where} has no '{key}'")


def _check_together(check: Mapping[str, Any], value: Mapping[str, Any]) -> None:
    """Raise ValueError if fields need another one that is missing (``checks.json``)."""
    if any(value.get(key) is None for key in check["given"]):
        return
    if any(value.get(key) != wanted for key, wanted in check["when"].items()):
        return
    if any(value.get(key) not in good for key, good in check["needs"].items()):
        raise ValueError(check["message"])


def _takes(kind: str, value: Any) -> bool:
    if kind in _TAKES:
        return _TAKES[kind](value)
    if bounded := _BOUNDED.match(kind):
        return _TAKES[bounded[1]](value) and _within(float(value), bounded[2])
    if kind.startswith("~"):
        plain = int(value) if isinstance(value, bool) else value
        return str(plain).upper() in kind[1:].upper().split(",")
    if kind in ("[str]", "[int]"):
        inside = _TAKES[kind[1:-1]]
        return isinstance(value, list) and all(inside(item) for item in value)
    return _among(value, json.loads(f"[{kind}]"))


def _within(value: float, bounds: str) -> bool:
    tests = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
    pairs = re.findall(r"([<>]=?)([^<>=]+)", bounds)
    return all(tests[sign](value, float(bound)) for sign, bound in pairs)


def _among(value: Any, words: list[Any]) -> bool:
    return any(value == word and type(value) is type(word) for word in words)


def _words(kind: str) -> str:
    return {"[]": "a list", "{}": "an object", "null": "null"}.get(kind, kind)


def _is_int(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\s*[+-]?\d+(_\d+)*(\.0*)?\s*", value) is not None
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _is_float(value: Any) -> bool:
    if not isinstance(value, str):
        return isinstance(value, int | float)
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_bool(value: Any) -> bool:
    if isinstance(value, str):
        return value.lower() in _TRUE_WORDS
    return isinstance(value, bool) or (
        isinstance(value, int | float) and value in (0, 1)
    )


# What pydantic takes from JSON for a field of each type.
_TAKES: Mapping[str, Callable[[Any], bool]] = {
    "int": _is_int,
    "float": _is_float,
    "bool": _is_bool,
    "str": lambda value: isinstance(value, str),
    "null": lambda value: value is None,
    "[]": lambda value: isinstance(value, list),
    "{}": lambda value: isinstance(value, dict),
    "{}+": lambda value: isinstance(value, dict) and bool(value),
}
