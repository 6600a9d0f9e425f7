"""A job's words and variables as its pod has them. Pure.

The kubelet replaces ``$(NAME)`` in commands and variables, and reads ``$$`` as one ``$``
(kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables):
whatever is not meant for it has its dollars doubled.

What only the running pods know are late values (``launchers.late``): the own address is the variable
LEMNOS_POD_IP, the leader's of a group LWS_LEADER_ADDRESS, and the rank within it LWS_WORKER_INDEX
(lws.sigs.k8s.io, "Labels, annotations and environment variables").
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lemnos.errors import UsageError
from lemnos.spec.plan import Job

OWN, LEADER, INDEX = "LEMNOS_POD_IP", "LWS_LEADER_ADDRESS", "LWS_WORKER_INDEX"
_HOST = re.compile(r"@LEMNOS_HOST_(\d{1,4})@")
_NUMBER = re.compile(r"((?<![\d.])\d{1,9}(?![\d.]))")


@dataclass(frozen=True)
class Reference:
    """A variable of the pod."""

    name: str


@dataclass(frozen=True)
class Linear:
    """``step`` times the rank, and ``start``."""

    step: int
    start: int


Word = tuple[str | Reference | Linear, ...]


def literal(text: str) -> str:
    """``text`` as the kubelet gives it to the process."""
    return text.replace("$", "$$")


def alone(text: str) -> str:
    """A word or value of a pod that has no group: every late host is its own."""
    return _for_kubelet(_parsed(text, lambda _: OWN))


def of_leader(argv: Sequence[str]) -> list[str]:
    """The command of a group's first rank: its host is its own address. It binds to it
    as soon as it starts, and its name may come into the cluster's DNS a moment later."""
    return [_for_kubelet(_parsed(word, _known(0, word))) for word in argv]


def of_workers(jobs: Sequence[Job]) -> list[str]:
    """The one command of all other ranks: ``jobs`` are ranks 1, 2, ... in order.

    Words may differ by the rank or by a number that grows evenly with it, which a shell calculates
    then. Raises UsageError for words that differ otherwise.
    """
    commands = [job.command.argv for job in jobs]
    if len({len(words) for words in commands}) > 1:
        raise _differ(commands[0][0])
    merged = [_merged(words) for words in zip(*commands, strict=True)]
    calculated = (p for word in merged for p in word if isinstance(p, Linear))
    if all(part == Linear(1, 0) for part in calculated):
        return [_for_kubelet(word) for word in merged]
    # Each flag with its values on a line of its own.
    words = [_for_shell(word) for word in merged]
    breaks = [" \\\n  " if word.startswith("--") else " " for word in words]
    line = "".join(a + b for a, b in zip(breaks, words, strict=True))
    return ["sh", "-c", literal(f"exec{line}")]


def env_of_rank(env: dict[str, str], rank: int) -> dict[str, str]:
    """Variables of a group's member: its own host is its address, rank 0's the leader's."""
    return {k: _for_kubelet(_parsed(v, _known(rank, k))) for k, v in env.items()}


def env_of_workers(jobs: Sequence[Job]) -> dict[str, str]:
    """Of all ranks but the first. Raises UsageError where they differ by more than their addresses."""
    found = [env_of_rank(j.command.env, rank) for rank, j in enumerate(jobs, start=1)]
    for other in found[1:]:
        if other != found[0]:
            raise _differ(min(k for k, _ in other.items() ^ found[0].items()))
    return found[0]


def _known(rank: int, where: str) -> Callable[[int], str]:
    """What a rank calls the hosts; those of ranks that are neither it nor the first have no name."""

    def name(number: int) -> str:
        if number == rank:
            return OWN
        if number == 0:
            return LEADER
        raise _differ(where)

    return name


def _parsed(text: str, name: Callable[[int], str]) -> Word:
    """``text`` in parts, its late hosts as ``name`` calls them."""
    pieces = _HOST.split(text)  # text, number, text, number, ..., text
    return tuple(
        Reference(name(int(piece))) if odd % 2 else piece
        for odd, piece in enumerate(pieces)
        if piece
    )


def _merged(words: Sequence[str]) -> Word:
    """One word for ranks 1, 2, ..., which have ``words``."""
    rows = [_parsed(w, _known(rank, w)) for rank, w in enumerate(words, start=1)]
    if len({tuple(type(part) for part in row) for row in rows}) > 1:
        raise _differ(words[0])
    return tuple(
        part
        for column in zip(*rows, strict=True)
        for part in _merged_parts(column, words[0])
    )


def _merged_parts(column: Sequence[str | Reference | Linear], where: str) -> Word:
    if len(set(column)) == 1:
        return (column[0],)
    if not all(isinstance(part, str) for part in column):
        raise _differ(where)
    split = [_NUMBER.split(str(part)) for part in column]  # text, number, ..., text
    if len({tuple(pieces[::2]) for pieces in split}) > 1:
        raise _differ(where)
    found: list[str | Linear] = []
    for odd, pieces in enumerate(zip(*split, strict=True)):
        same = len(set(pieces)) == 1
        found.append(pieces[0] if same or not odd % 2 else _line(pieces, where))
    return tuple(part for part in found if part)


def _line(numbers: Sequence[str], where: str) -> Linear:
    values = [int(number) for number in numbers]
    step = values[1] - values[0]
    start = values[0] - step
    if any(v != step * rank + start for rank, v in enumerate(values, start=1)):
        raise _differ(where)
    return Linear(step, start)


def _for_kubelet(word: Word) -> str:
    texts = []
    for part in word:
        if isinstance(part, str):
            texts.append(literal(part))
        else:
            name = part.name if isinstance(part, Reference) else INDEX
            texts.append(f"$({name})")
    return "".join(texts)


def _for_shell(word: Word) -> str:
    texts = []
    for part in word:
        if isinstance(part, str):
            texts.append(shlex.quote(part))
        elif isinstance(part, Reference):
            texts.append(f'"${part.name}"')
        else:
            texts.append(f'"$(({part.step} * {INDEX} + {part.start}))"')
    return "".join(texts) or "''"


def _differ(where: str) -> UsageError:
    return UsageError(
        f"the ranks of this unit differ in '{where}' by more than their number, and all but the "
        "first are made from one template",
        where="kubernetes.kind",
        fix="use engine: dynamo for workers of several kinds, or fewer hosts",
    )
