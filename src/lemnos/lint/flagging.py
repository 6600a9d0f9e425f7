"""Flags against the release that will run: what its parser refuses, since when, and what instead. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from lemnos.engines.flags import Option, Parsed, Problem, lifetime, parse, schema_for
from lemnos.lint.command import Command, Use, removed, replaced
from lemnos.lint.findings import Edit, Finding
from lemnos.lint.words import UNKNOWN

NEVER = {
    ("vllm", "--expert-parallel-size"): (
        "--enable-expert-parallel",
        "vLLM has no size for it: --enable-expert-parallel spreads the experts over TP x DP",
    ),
    ("vllm", "--ep-size"): (
        "--enable-expert-parallel",
        "vLLM has no size for it: --enable-expert-parallel spreads the experts over TP x DP",
    ),
    ("vllm", "--tp-size"): ("--tensor-parallel-size", "that is SGLang's name"),
    ("vllm", "--tp"): ("--tensor-parallel-size", "that is SGLang's name"),
    ("vllm", "--context-length"): ("--max-model-len", "that is SGLang's name"),
    ("vllm", "--mem-fraction-static"): ("--gpu-memory-utilization", "that is SGLang's name"),
    ("vllm", "--model-path"): ("--model", "that is SGLang's name"),
    ("sglang", "--max-model-len"): ("--context-length", "that is vLLM's name"),
    ("sglang", "--gpu-memory-utilization"): ("--mem-fraction-static", "that is vLLM's name"),
    ("sglang", "--enable-expert-parallel"): ("--ep-size", "SGLang is told the number of ways"),
    ("sglang", "--max-num-seqs"): ("--max-running-requests", "that is vLLM's name"),
    ("sglang", "--enforce-eager"): ("--disable-cuda-graph", "that is vLLM's name"),
}  # fmt: skip
"""Flags that no release had, and what people who write them mean: name, and why."""

_RULES = {
    "value": "wrong-type",
    "choice": "not-a-choice",
    "missing-value": "missing-value",
    "unwanted-value": "unwanted-value",
    "ambiguous": "ambiguous-prefix",
    "prefix": "prefix",
    "deprecated": "deprecated",
    "positional": "stray-word",
}


def parsed_by(command: Command) -> Parsed:
    """The command through its release's parser; a Dynamo worker's flags are its engine's too."""
    return parse(command.flags, [word.text for word in command.words])


def flag_findings(
    command: Command, parsed: Parsed, version_open: bool
) -> Iterator[Finding]:
    """What the release's parser refuses, or will; ``version_open``: a newer one may run."""
    gone: set[int] = set()
    leaving = list(_gone_in_newest(command)) if version_open else []
    for problem in parsed.problems:
        if problem.index >= len(command.words) or problem.index in gone:
            continue
        start = command.words[problem.index].start
        if problem.code == "deprecated" and any(f.start == start for f in leaving):
            continue  # that it is gone in the newest says more
        if problem.code == "unknown":
            finding, stop = _unknown(command, problem)
            gone.update(range(problem.index, stop))
            yield finding
        elif found := _other(command, problem):
            yield found
    yield from leaving
    yield from _twice(command)


def _unknown(command: Command, problem: Problem) -> tuple[Finding, int]:
    """A flag that this release has not: was it removed, is it newer, or was it never there?"""
    word = command.words[problem.index]
    name = word.text.partition("=")[0]
    engines = [command.schema.engine, *(schema.engine for schema in command.extra)]
    here = f"{command.schema.engine} {command.schema.version}"
    lives = next(((e, life) for e in engines if (life := lifetime(e, name))), None)
    stop = _stop(
        command, problem.index, _option_then(lives[0] if lives else None, name)
    )
    start, end = word.span(0, len(name))
    if lives is None:
        rule, what, why, instead, edits = _never(command, problem.index, stop, name)
        what = f"{name} is no flag of any known release of {command.engine}" + what
        return _finding(command, rule, start, end, what, why, instead, edits), stop
    engine, life = lives
    version = next(
        (s.version for s in (command.schema, *command.extra) if s.engine == engine), ""
    )
    if _order(engine, life.first) > _order(engine, version):
        what = f"{name} came with {engine} {life.first}: {here} does not know it"
        instead = f"use {engine} {life.first} or newer, or leave it out"
        return _finding(command, "newer-flag", start, end, what, "", instead, ()), stop
    last = f"last in {life.last}" + (f", gone in {life.gone}" if life.gone else "")
    what = f"{here} has no {name}: {last}"
    edits, instead = _replacement(command, problem.index, stop, name, life.instead)
    why = "the engine's parser ends with an error before anything is loaded"
    return _finding(
        command, "removed-flag", start, end, what, why, instead, edits
    ), stop


def _option_then(engine: str | None, name: str) -> Option | None:
    """The flag as its last release had it."""
    life = lifetime(engine, name) if engine else None
    return schema_for(engine, life.last).named(name) if engine and life else None


def _stop(command: Command, index: int, option: Option | None) -> int:
    """Where the words of an unknown flag end: with its value, if it had one."""
    if "=" in command.words[index].text or (option and option.kind == "flag"):
        return index + 1
    stop = index + 1
    most = len(command.words) if option and option.many else index + 2
    while stop < min(most, len(command.words)):
        if command.words[stop].text.startswith("-"):
            break
        stop += 1
    return stop


def _never(
    command: Command, index: int, stop: int, name: str
) -> tuple[str, str, str, str, tuple[Edit, ...]]:
    """(rule, more, why, instead, edits) of a flag that no release had."""
    known = NEVER.get((command.engine, name))
    if known is None:
        names = [n for n in command.flags.spellings if n.startswith("--")]
        import difflib  # slow to import

        close = difflib.get_close_matches(name, names, n=2, cutoff=0.75)
        instead = f"did you mean {' or '.join(close)}?" if close else "leave it out"
        return "unknown-flag", "", "", instead, ()
    new, why = known
    option = command.option(new)
    if option is None:
        return "unknown-flag", "", why, f"write {new}", ()
    if command.use(new):
        edits = removed(command, index, stop)
        return "unknown-flag", "", why, f"leave it out: {new} is there", edits
    edits = _renamed(command, index, stop, name, option, new)
    return "unknown-flag", "", why, f"write {new}", edits


def _replacement(
    command: Command, index: int, stop: int, name: str, instead: str
) -> tuple[tuple[Edit, ...], str]:
    """A removed flag's edits and advice: another flag of the same kind, or nothing in its place."""
    match = re.match(r"(--[a-z][\w-]*)\s*(?=$|[,;:(]|is enough)", instead)
    option = command.option(match[1]) if match else None
    old = _option_then(command.schema.engine, name)
    if (
        match
        and option
        and old
        and option.kind == old.kind
        and not command.use(match[1])
    ):
        return _renamed(
            command, index, stop, name, option, match[1]
        ), f"write {match[1]}"
    instead = re.sub(r"^nothing[:;,]?\s*", "", instead)
    advice = f"leave it out: {instead}" if instead else "leave it out"
    return removed(command, index, stop), advice


def _renamed(
    command: Command, index: int, stop: int, name: str, option: Option, new: str
) -> tuple[Edit, ...]:
    edits = replaced(command.words[index], 0, len(name), new)
    if option.kind != "flag":
        return edits
    word = command.words[index]
    if "=" in word.text:
        return replaced(word, 0, len(word.text), new)
    if stop > index + 1:
        return edits + removed(command, index + 1, stop)
    return edits


def _other(command: Command, problem: Problem) -> Finding | None:
    word = command.words[problem.index]
    values = command.words[problem.index : problem.index + 2]
    if any(UNKNOWN in each.text for each in values) and problem.code != "prefix":
        return None
    if problem.code == "positional" and (command.open_ended() or problem.index == 0):
        return None
    name = word.text.partition("=")[0]
    edits: tuple[Edit, ...] = ()
    instead = ""
    if problem.code == "prefix" and (use := _use_at(command, problem.index)):
        full = next(
            (n for n in use.option.names if n.startswith(name)), use.option.names[0]
        )
        edits, instead = replaced(word, 0, len(name), full), f"write {full}"
    elif problem.code == "deprecated" and (use := _use_at(command, problem.index)):
        edits, instead = _undeprecated(command, use, name)
    elif problem.code in ("unwanted-value", "positional"):
        edits, instead = _without_value(command, problem.index)
    return _finding(
        command,
        _RULES[problem.code],
        word.start,
        word.end,
        problem.message.rstrip("."),
        "",
        instead,
        edits,
    )


def _undeprecated(
    command: Command, use: Use, name: str
) -> tuple[tuple[Edit, ...], str]:
    match = re.search(r"--[a-z][\w-]+", use.option.deprecated)
    instead = use.option.deprecated if use.option.deprecated != "deprecated" else ""
    if not match:
        return (), instead
    option = command.option(match[0])
    if option is None or option.kind != use.option.kind or command.use(match[0]):
        return (), instead
    return replaced(
        command.words[use.index], 0, len(name), match[0]
    ), f"write {match[0]}"


def _without_value(command: Command, index: int) -> tuple[tuple[Edit, ...], str]:
    """``--enable-x=true`` and ``--enable-x true``: the flag alone says it."""
    word = command.words[index]
    name, equals, value = word.text.partition("=")
    if equals and value.lower() in ("true", "1", "yes"):
        return replaced(word, len(name), len(word.text), ""), f"write {name}"
    use = _use_at(command, index - 1)
    if equals or use is None or use.option.kind != "flag":
        return (), ""
    if word.text.lower() in ("true", "1", "yes"):
        return removed(command, index, index + 1), f"write {use.name}"
    if word.text.lower() in ("false", "0", "no"):
        return removed(command, index - 1, index + 1), f"leave {use.name} out"
    return (), ""


def _use_at(command: Command, index: int) -> Use | None:
    return next((use for use in command.uses if use.index == index), None)


def _gone_in_newest(command: Command) -> Iterator[Finding]:
    """Flags that this release takes, and a newer one, which may be installed, refuses."""
    for use in command.uses:
        name = use.option.names[0]
        life = lifetime(command.schema.engine, name)
        if life is None or life.gone is None:
            continue
        word = command.words[use.index]
        edits, instead = _replacement(command, use.index, use.stop, name, life.instead)
        yield _finding(
            command,
            "gone-in-newest",
            *word.span(0, len(use.name)),
            f"{use.name} is gone in {command.schema.engine} {life.gone}, which the "
            "requirement allows",
            "a fresh installation takes the newest release",
            instead,
            edits,
        )


def _twice(command: Command) -> Iterator[Finding]:
    seen: dict[str, Use] = {}
    for use in command.uses:
        name = use.option.names[0]
        before = seen.get(name)
        seen[name] = use
        if before is None or use.option.many or use.option.open_keys or "." in use.name:
            continue
        word = command.words[before.index]
        yield _finding(
            command,
            "given-twice",
            word.start,
            word.end,
            f"{before.name} is given again later: this one counts for nothing",
            "",
            "leave it out",
            removed(command, before.index, before.stop),
        )


def _order(engine: str, version: str) -> int:
    from lemnos.engines.flags import versions

    known = versions(engine)
    return known.index(version) if version in known else -1


def _finding(
    command: Command,
    rule: str,
    start: int,
    end: int,
    what: str,
    why: str,
    instead: str,
    edits: Sequence[Edit],
) -> Finding:
    return Finding(rule, start, end, what, why, instead, tuple(edits), command.number)
