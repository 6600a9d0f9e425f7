"""What vLLM does to a command line before argparse sees it (its FlexibleArgumentParser)."""

from __future__ import annotations

import json
import re
from typing import Any

from lemnos.engines.flags.parse import State, Word
from lemnos.engines.flags.values import size

_MODEL = re.compile(r"^--model(=.+|$)")
_SERVED = re.compile(r"^--served[-_]model[-_]name(=.+|$)")
_CONFIG = re.compile(r"^--config(=.+|$)")


def prepared(state: State, words: list[Word]) -> list[Word]:
    """The words as argparse gets them. Each step is there for the releases that have it."""
    rules = state.schema.rules
    if "model-positional" in rules:
        words = _model_first(state, words)
    if "config-file" in rules:
        words = _without_config_file(state, words)
    if "underscores" in rules:
        words = _dashed(state, words)
    if "dotted" in rules:
        words = _without_dots(state, words)
    return words


def _model_first(state: State, words: list[Word]) -> list[Word]:
    """``--model X`` becomes the positional X (older releases refuse it)."""
    at = next((n for n, word in enumerate(words) if _MODEL.match(word.text)), None)
    if at is not None:
        words = _model_moved(state, words, at)
    if (
        "named-needs-model" in state.schema.rules
        and words
        and words[0].text.startswith("-")
    ):
        served = next((word for word in words if _SERVED.match(word.text)), None)
        if served and not any(_CONFIG.match(word.text) for word in words):
            state.add(
                "positional",
                served,
                "the model comes first: vllm serve MODEL --served-model-name ...",
            )
    return words


def _model_moved(state: State, words: list[Word], at: int) -> list[Word]:
    word = words[at]
    if "model-refused" in state.schema.rules:
        if word.text == "--model":
            state.add(
                "positional", word, "vllm serve takes the model first, without --model"
            )
        return words
    glued = word.text != "--model"
    if not glued and at + 1 == len(words):
        state.add("missing-value", word, "--model needs a model")
        return words[:at]
    model = (
        Word(word.text.removeprefix("--model="), word.index) if glued else words[at + 1]
    )
    state.add(
        "deprecated",
        word,
        "vllm serve takes the model first, without --model",
        fatal=False,
    )
    return [model, *words[:at], *words[at + (1 if glued else 2) :]]


def _without_config_file(state: State, words: list[Word]) -> list[Word]:
    """``--config FILE`` is replaced by the file's options, which are not read here."""
    places = [at for at, word in enumerate(words) if word.text == "--config"]
    if not places:
        return words
    state.config_file = True
    at = places[0]
    if len(places) > 1:
        state.add("value", words[places[1]], "there is one --config at most")
    if at + 1 == len(words):
        state.add("missing-value", words[at], "--config needs a file")
        return words[:at]
    path = words[at + 1]
    if not path.text.endswith((".yaml", ".yml")):
        state.add(
            "value", path, f"--config takes a .yaml or .yml file, not '{path.text}'"
        )
    state.values["--config"] = [path.text]
    return words[:at] + words[at + 2 :]


def _dashed(state: State, words: list[Word]) -> list[Word]:
    """Dashes for underscores in names; the forms of ``-O``; ``--help=GROUP``."""
    levels = "optimization-level" in state.schema.rules
    long = "--optimization-level" if levels else "-O"
    made: list[Word] = []
    for at, word in enumerate(words):
        text = word.text
        if text.startswith("--help="):
            made.append(Word("--help", word.index))
        elif text.startswith("--"):
            head, equals, value = text.partition("=")
            made.append(Word(state.schema.dashed(head) + equals + value, word.index))
        elif _glued_level(text, levels):
            value = text[3:] if text[2] == "=" and levels else text[2:]
            made += [Word(long, word.index), Word(value, word.index)]
        elif (
            levels
            and text == "-O"
            and [w.text for w in words[at + 1 : at + 2]] in _LEVELS
        ):
            made.append(Word(long, word.index))
        else:
            made.append(word)
    return made


_LEVELS = [["0"], ["1"], ["2"], ["3"]]


def _glued_level(text: str, levels: bool) -> bool:
    if not text.startswith("-O") or text == "-O":
        return False
    # Before --optimization-level a dot made it a key: -O.level=3.
    return levels or (len(text) == 3 and text[2] != ".")


def _without_dots(state: State, words: list[Word]) -> list[Word]:
    """``--name.a.b 1`` and ``-cc.a=1`` become one ``--name '{"a": ...}'`` at the end."""
    kept: list[Word] = []
    objects: dict[str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    skip = False
    for at, word in enumerate(words):
        if skip:
            skip = False
            continue
        head, equals, value = word.text.partition("=")
        if not word.text.startswith("-") or "." not in head:
            kept.append(word)
            continue
        if not equals:
            if at + 1 == len(words):
                state.add("missing-value", word, f"{head} needs a value")
                continue
            value, skip = words[at + 1].text, True
        name, keys, read = _key_value(head, value)
        places.setdefault(name, word.index)
        try:
            merge(objects.setdefault(name, {}), nested(keys, read))
        except (AttributeError, TypeError):
            state.add(
                "value", word, f"{head} and another key of {name} exclude each other"
            )
    for name, made in objects.items():
        text = json.dumps(made)
        kept += [Word(name, places[name]), Word(text, places[name])]
    return kept


def _key_value(head: str, value: str) -> tuple[str, list[str], Any]:
    """(option, keys, value) of ``--option.key.key``; ``key+`` takes items with commas."""
    if head.endswith("+"):
        head, value = head[:-1], json.dumps(value.split(","))
    name, *keys = head.split(".")
    try:
        return name, keys, json.loads(value)
    except ValueError:
        pass
    try:
        return name, keys, size(value)
    except ValueError:
        return name, keys, value


def nested(keys: list[str], value: Any) -> Any:
    """``{"a": {"b": value}}`` of ["a", "b"]."""
    for key in reversed(keys):
        value = {key: value}
    return value


def merge(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Put ``new`` into ``old``: objects are joined, lists extended, the rest replaced."""
    for key, value in new.items():
        there = old.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            merge(there, value)
        elif isinstance(value, list) and isinstance(there, list):
            there += value
        else:
            old[key] = value
