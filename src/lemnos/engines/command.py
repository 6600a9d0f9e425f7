"""An engine's command line, written with the flags that its version has. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lemnos.engines.flags.parse import parse
from lemnos.engines.flags.schema import Schema, lifetime
from lemnos.errors import UsageError, near


class CommandLine:
    """Flags in the order in which they were added, each in the spelling that the version knows."""

    def __init__(self, schema: Schema, *before: str) -> None:
        """``before``: words that the engine wants ahead of its flags (vLLM: the model)."""
        self.schema = schema
        self.before = before
        self.words: list[str] = []

    def has(self, *names: str) -> str | None:
        """The first of ``names`` that this version has; None: none of them."""
        return next((name for name in names if self.schema.named(name)), None)

    def add(self, names: str | Sequence[str], value: Any = True, *, why: str) -> None:
        """One flag; ``names`` are its spellings, the newest first.

        ``value``: True for a flag without one, False for its ``--no-`` twin, None for nothing at
        all, a dict as JSON, a list as several words. ``why``: what it is for, for the error.
        Raises UsageError where the version has none of the names.
        """
        if value is None:
            return
        spellings = (names,) if isinstance(names, str) else tuple(names)
        name = self.has(*spellings)
        if name is None:
            raise self._lacks(spellings, why)
        self.words += written(name, value)

    def _lacks(self, names: Sequence[str], why: str) -> UsageError:
        engine, version = self.schema.engine, self.schema.version
        lives = [life for name in names if (life := lifetime(engine, name))]
        fix = f"choose another version of {engine}, or leave it out"
        if lives and lives[0].gone is None:
            fix = f"it came with {engine} {lives[0].first}: use that or a newer one"
        return UsageError(
            f"{engine} {version} cannot do {why}: it has no {names[0]}", fix=fix
        )

    def add_free(self, args: Mapping[str, Any], owned: Mapping[str, str]) -> None:
        """``engine_args`` of the spec: any flag of the engine but those that lemnos sets itself.

        ``owned``: what to write in the spec instead, by flag. Comes last: then the whole line is
        judged. Raises UsageError for owned flags, flags that the version lacks, and values that
        it would refuse, lemnos' own too (a KV cache's type that came later).
        """
        own = len(self.before) + len(self.words)
        for key, value in args.items():
            head, dot, keys = key.lstrip("-").partition(".")
            name = "--" + head.replace("_", "-")
            option = self.schema.named(name)
            if option is None:
                raise self._unknown(key, name)
            for spelling in (name, *option.names):
                if spelling in owned:
                    raise UsageError(
                        f"engine_args sets {spelling}, which lemnos sets itself",
                        where=f"engine_args.{key}",
                        fix=f"use {owned[spelling]}",
                    )
            self.words += written(name + dot + keys, value)
        parsed = parse(self.schema, [*self.before, *self.words])
        problems = [each for each in parsed.problems if each.fatal]
        if problems:
            engine, version = self.schema.engine, self.schema.version
            free = problems[0].index >= own
            raise UsageError(
                f"{engine} {version} would refuse it: {problems[0].message}",
                where="engine_args" if free else "",
                fix=f"see 'lemnos lint' and the flags of {engine} {version}"
                if free
                else f"plan without it, or choose another version of {engine}",
            )

    def _unknown(self, key: str, name: str) -> UsageError:
        engine, version = self.schema.engine, self.schema.version
        life = lifetime(engine, name)
        if life is None:
            known = [option.names[0] for option in self.schema.options]
            return UsageError(
                f"{engine} never had {name}",
                where=f"engine_args.{key}",
                fix=near(name, known) or "leave it out",
            )
        when = f"gone in {life.gone}" if life.gone else f"new in {life.first}"
        return UsageError(
            f"{engine} {version} has no {name} ({when})",
            where=f"engine_args.{key}",
            fix=f"use {life.instead}" if life.instead else "leave it out",
        )


def written(name: str, value: Any) -> list[str]:
    """``name`` with its value as words: ``written("--no-x"...)`` for False."""
    if value is True:
        return [name]
    if value is False:
        return [f"--no-{name.removeprefix('--')}"]
    if value is None:
        return []
    if isinstance(value, dict):
        return [name, json.dumps(value, separators=(",", ":"))]
    if isinstance(value, list | tuple):
        return [name, *(str(each) for each in value)]
    if isinstance(value, float) and value.is_integer():
        return [
            name,
            str(int(value)),
        ]  # some options take no point: --cpu-offload-gb of SGLang
    return [name, str(value)]
