"""Values that only the running job knows: its hosts, its ports. Pure.

A scheduler says at the start which hosts a job has, and ports are chosen there. Until then
they are tokens in commands, environments and files, which rendering turns into shell variables:
hosts are ``@LEMNOS_HOST_0@``, ports are numbers far above any real one, because engines
calculate with them. Somebody who writes such a token into a spec gets the variable's value.
"""

from __future__ import annotations

import re
import shlex

from lemnos.spec.place import INNER_PORTS

PORT = 73_091_800_000
"""Stands for the API's port."""
INNER_PORT = 73_091_900_000
"""Stands for the first of the inner ports; the next INNER_PORTS numbers for the others."""

_TOKEN = re.compile(
    rf"@LEMNOS_HOST_(\d{{1,4}})@|(?<!\d)(?:({PORT})|({INNER_PORT // 100}\d\d))(?!\d)"
)


def host(rank: int) -> str:
    """The token of the host with this number."""
    return f"@LEMNOS_HOST_{rank}@"


def rank_of(text: str) -> int | None:
    """The number of the host that ``text`` is the token of; None: it is no token."""
    match = _TOKEN.fullmatch(text)
    return int(match[1]) if match and match[1] else None


def quoted(text: str) -> str:
    """``text`` as one word for a POSIX shell: all of it quoted, late values as variables.

    ``LEMNOS_HOST_0`` ..., ``LEMNOS_PORT`` and ``LEMNOS_INNER_PORT`` must be set where the word stands.
    """
    parts, at = [], 0
    for match in _TOKEN.finditer(text):
        variable = _variable(match)
        if variable is None:
            continue
        if before := text[at : match.start()]:
            parts.append(shlex.quote(before))
        parts.append(variable)
        at = match.end()
    if (rest := text[at:]) or not parts:
        parts.append(shlex.quote(rest))
    return "".join(parts)


def filled(text: str, hosts: tuple[str, ...], port: int, inner_port: int) -> str:
    """``text`` with its late values known. A host that there is not stays a token."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            number = int(match[1])
            return hosts[number] if number < len(hosts) else match[0]
        if match[2]:
            return str(port)
        offset = int(match[3]) - INNER_PORT
        return str(inner_port + offset) if offset < INNER_PORTS else match[0]

    return _TOKEN.sub(value, text)


def is_late(text: str) -> bool:
    """Whether ``text`` holds a value that is not known yet."""
    return any(_variable(match) for match in _TOKEN.finditer(text))


def _variable(match: re.Match[str]) -> str | None:
    if match[1]:
        return f'"${{LEMNOS_HOST_{int(match[1])}}}"'
    if match[2]:
        return '"${LEMNOS_PORT}"'
    offset = int(match[3]) - INNER_PORT
    if offset >= INNER_PORTS:
        return None
    return (
        f'"$((LEMNOS_INNER_PORT + {offset}))"' if offset else '"${LEMNOS_INNER_PORT}"'
    )
