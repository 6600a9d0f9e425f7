"""Which hosts see the same environments. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def groups(seen: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Hosts whose environments are in the same directory, as lists; the first of each installs.

    ``seen`` has, for each host, the hosts whose mark it finds in its own directory, itself
    included. In the order of ``seen``.
    """
    found: list[list[str]] = []
    for host, others in seen.items():
        with_it = next((g for g in found if g[0] in others or host in seen[g[0]]), None)
        if with_it is None:
            found.append([host])
        else:
            with_it.append(host)
    return found
