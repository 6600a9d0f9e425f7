"""Command lines for the option oracles: valid ones and every kind of wrong one, from a seed.

The engines' own parsers say what each is worth (``vllm_options.py``, ``sglang_options.py``); the
verdicts are what lemnos's parser is held against.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence

SEED = 20_261_121
NUMBERS = ["0", "1", "8", "-1", "+3", " 7", "1_000", "0x10", "1.5", "-0.5", ".9", "1e3"]
NUMBERS += ["nan", "2k", "2K", "1.5M", "1.5G", "3t", "auto", "None", "", "eight", "1,2"]
TEXTS = ["x", "/data/model", "a b", "None", "", "auto", "-", "a=b", "x.y", "true", "5"]
JSONS = [
    '{"a": 1}',
    "{}",
    "[]",
    '["*"]',
    "null",
    "1",
    '"text"',
    "{a: 1}",
    "{'a': 1}",
    "{",
]
JSONS += ['{"size": 2k}', "plain", "", "None", '{"a": {"b": [1, 2]}}']
UNKNOWN = [
    "--swap-space",
    "--expert-parallel-size",
    "--disable-log-requests",
    "--tp",
    "--zz",
]
UNKNOWN += [
    "--enable-reasoning",
    "--max-model-length",
    "--gpu-memory",
    "-z",
    "-zz",
    "--no",
]
UNKNOWN += [
    "--num-scheduler-steps",
    "--cuda-graph-max-bs",
    "--context-len",
    "---",
    "-5",
    "-1.5",
]


class Lines:
    """A generator over the options of a real parser, and the fields of its config classes."""

    def __init__(
        self,
        parser: argparse.ArgumentParser,
        *,
        positional: bool,
        shorts: Sequence[str] = (),
        fields: dict[str, list[str]] | None = None,
    ) -> None:
        self.random = random.Random(SEED)
        self.actions = [a for a in parser._actions if a.option_strings and a.nargs != 0]
        self.flags = [a for a in parser._actions if a.option_strings and a.nargs == 0]
        self.flags = [a for a in self.flags if not isinstance(a, argparse._HelpAction)]
        self.positional = positional
        self.shorts = list(shorts)
        self.fields = fields or {}

    def many(self, count: int) -> Iterator[list[str]]:
        """``count`` different command lines."""
        seen: set[tuple[str, ...]] = set()
        while len(seen) < count:
            line = tuple(self.one())
            if line not in seen:
                seen.add(line)
                yield list(line)

    def one(self) -> list[str]:
        """One command line: a model, and up to five parts of which at most two are odd."""
        line = self._model()
        odd = self.random.choice((0, 1, 1, 1, 2))
        parts = [self.good() for _ in range(self.random.randint(0, 3))]
        parts += [self.random.choice(self.ODD)(self) for _ in range(odd)]
        self.random.shuffle(parts)
        for part in parts:
            line += part
        if self.positional and self.random.random() < 0.04:
            line += self._model()
        return line

    def _model(self) -> list[str]:
        if self.random.random() < 0.03:
            return []
        if self.positional:
            return ["zai-org/GLM-4.5-Air"]
        return ["--model-path", "zai-org/GLM-4.5-Air"]

    # ---- parts of a line

    def good(self) -> list[str]:
        """An option as its users write it."""
        if self.random.random() < 0.3:
            return [self.name(self.random.choice(self.flags))]
        action = self.random.choice(self.actions)
        values = self.values(action)
        if len(values) == 1 and self.random.random() < 0.3:
            return [f"{self.name(action)}={values[0]}"]
        return [self.name(action), *values]

    def any_value(self) -> list[str]:
        """An option with a value that may be of another kind."""
        action = self.random.choice(self.actions)
        value = self.random.choice(self.random.choice((NUMBERS, TEXTS, JSONS)))
        if self.random.random() < 0.5:
            return [f"{self.name(action)}={value}"]
        return [self.name(action), value]

    def bad_choice(self) -> list[str]:
        """A word that is nearly one of the choices."""
        action = self.random.choice([a for a in self.actions if a.choices])
        word = str(self.random.choice(sorted(map(str, action.choices or ()))))
        word = self.random.choice(
            (word.upper(), word + "x", word[:-1], word, f" {word}")
        )
        return [self.name(action), word]

    def unknown(self) -> list[str]:
        """An option that does not exist, with or without a value."""
        word = self.random.choice(UNKNOWN)
        if self.random.random() < 0.4:
            name = self.name(self.random.choice(self.actions + self.flags))
            place = self.random.randrange(3, len(name)) if len(name) > 3 else len(name)
            word = name[:place] + self.random.choice("xyzq-") + name[place:]
        more = self.random.choice(([], ["3"], ["true"]))
        return [word, *more]

    def prefix(self) -> list[str]:
        """The beginning of a long name; with a value where the option takes one."""
        action = self.random.choice(self.actions + self.flags)
        name = self.name(action)
        word = (
            name[: self.random.randrange(3, len(name) + 1)] if len(name) > 3 else name
        )
        values = [] if action.nargs == 0 else self.values(action)
        if len(values) == 1 and self.random.random() < 0.3:
            return [f"{word}={values[0]}"]
        return [word, *values]

    def underscores(self) -> list[str]:
        """A name with some or all of its dashes as underscores."""
        action = self.random.choice(self.actions + self.flags)
        head, *parts = self.name(action)[2:].split("-")
        joined = (
            "--" + head + "".join(self.random.choice("_-_") + part for part in parts)
        )
        return [joined, *([] if action.nargs == 0 else self.values(action))]

    def twin(self) -> list[str]:
        """``--no-`` before a name, whether or not that exists."""
        action = self.random.choice(self.flags + self.random.choices(self.actions, k=5))
        more = self.random.choice(([], [], [], ["false"]))
        return ["--no-" + self.name(action).lstrip("-"), *more]

    def missing(self) -> list[str]:
        """An option without the value that it needs (or with too many)."""
        action = self.random.choice(self.actions)
        return self.random.choice(
            (
                [self.name(action)],
                [self.name(action), "1", "2"],
                [self.name(action), "--"],
            )
        )

    def unwanted(self) -> list[str]:
        """A flag with a value."""
        name = self.name(self.random.choice(self.flags))
        value = self.random.choice(("true", "false", "1", ""))
        return self.random.choice(([f"{name}={value}"], [name, value]))

    def short(self) -> list[str]:
        """A short name, its value apart, after "=" or glued on."""
        if not self.shorts:
            return self.prefix()
        name = self.random.choice(self.shorts)
        value = self.random.choice(("2", "4", "fp8", "x", ""))
        return self.random.choice(
            ([name, value], [f"{name}={value}"], [name + value], [name])
        )

    def dotted(self) -> list[str]:
        """A key of a JSON option, real or not, with a value; the forms with + and =."""
        names = self.fields or {"--no-such-option": ["key"]}
        option = self.random.choice(sorted(names))
        key = self.random.choice([*names[option], "no_such_key", "a.b", ""])
        if self.random.random() < 0.1:
            option = self.name(self.random.choice(self.actions))
        value = self.random.choice(
            ("1", "true", "null", "none", "1k", "[1, 2]", "text", "{}")
        )
        plus = "+" if self.random.random() < 0.1 else ""
        word = f"{option}.{key}{plus}"
        return self.random.choice(([word, value], [f"{word}={value}"], [word]))

    def config(self) -> list[str]:
        """A JSON object for an option that is a config class, its keys real or not."""
        if not self.fields:
            return self.any_value()
        option = self.random.choice(sorted(self.fields))
        keys = self.random.choices([*self.fields[option], "no_such_key"], k=2)
        values = [1, 0.5, True, None, "none", "x", [1], {}, -1]
        made = {key: self.random.choice(values) for key in keys if "." not in key}
        return [option, json.dumps(made)]

    ODD = (any_value, any_value, bad_choice, unknown, prefix, prefix, underscores, twin)
    ODD += (missing, unwanted, short, dotted, config)

    # ---- words

    def name(self, action: argparse.Action) -> str:
        """One of an action's spellings, a long one mostly."""
        return self.random.choice(list(action.option_strings))

    def values(self, action: argparse.Action) -> list[str]:
        """Values that an action should take."""
        count = {None: 1, "?": 1, "+": 2, "*": 2}.get(action.nargs, action.nargs)
        return [self.value(action) for _ in range(int(count or 1))]

    def value(self, action: argparse.Action) -> str:
        """A value by an action's choices, type and default."""
        if action.choices:
            return str(self.random.choice(sorted(map(str, action.choices))))
        if action.type is int or isinstance(action.default, int):
            return str(self.random.randint(0, 64))
        if action.type is float or isinstance(action.default, float):
            return f"{self.random.random():.2f}"
        kind = getattr(action.type, "__name__", "")
        if kind in ("str", "") or action.type is None:
            return self.random.choice(("x", "auto", "/data/model", "model-1"))
        return self.random.choice(("1", "x", "{}", '{"a": 1}', "2k"))
