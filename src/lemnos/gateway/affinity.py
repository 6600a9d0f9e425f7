"""Which replica has most of a prompt in its prefix cache, and when that is worth a longer queue.

An engine keeps the keys and values of prompts that it has seen, and skips what a new prompt has
in common with them from its beginning on. So a conversation that returns to its replica costs
only its last message. This module remembers what went where, as hashes of prompts' beginnings,
and orders replicas by *cost*, all of it counted in requests in flight:

    requests in flight
    + what the replica served lately beyond its share   (a conversation that thinks has no request
                                                         in flight, and will come back)
    + what of the prompt it would have to read that another replica has, up to a bound

The last term is what keeps conversations together; its bound is what keeps a hot prefix from
filling one replica while others are idle. Nothing here has a clock or does I/O.

The constants were chosen with ``benchmarks/prefix_routing.py``'s simulation: half of what a prefix
is worth costs up to 0.05 of the hit ratio, twice of it gains nothing and evens less.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import orjson

from lemnos.spec.targets import Api

_PARTS: dict[Api, tuple[str, ...]] = {
    "chat": ("tools", "messages"),
    "completions": ("prompt",),
    "messages": ("tools", "system", "messages"),
    "responses": ("tools", "instructions", "input"),
}
"""What of a request becomes the prompt, what changes least first. Embeddings are not here: they
are read at once and leave nothing behind."""

_KIB = 1024
_EDGES = tuple(chain(range(256, 4 * _KIB, 256), range(4 * _KIB, 1024 * _KIB + 1, _KIB)))
"""Where blocks end, in bytes: fine at first, for engines on CPUs, where 64 tokens are a second;
then 1 KiB, about 250 tokens. What is beyond 1 MiB tells conversations apart no better."""

_PER_KIB = 0.4
"""What reading 1 KiB of prompt is worth, in requests in flight."""
_BOUND = 12.0
"""What a cached prefix is worth at most, in requests in flight ..."""
_BOUND_SHARE = 0.25
"""... or this share of the mean, where that is more: with many in flight, chance alone is more."""
_SURPLUS = 0.4
"""What a request beyond a replica's share of the recent ones is worth ..."""
_SURPLUS_BOUND = 4.0
"""... and all of them at most: a replica that has just come is not flooded, a fast one not idle."""
_RECENT = 64
"""Requests a replica that count as recent."""
_SESSION = 2.0
"""What being the session's last replica is worth: more than chance, less than a real prefix."""

_SESSION_HEADERS = (
    b"x-claude-code-session-id",
    b"session-id",
    b"session_id",
    b"x-session-id",
    b"x-session-affinity",
    b"x-opencode-session",
)
_LONGEST_SESSION = 256


def prompt_blocks(api: Api, request: Mapping[str, Any]) -> tuple[int, ...]:
    """Hashes of a prompt's beginnings, shortest first; each covers everything before it.

    ``request`` is a parsed body. Two requests share as many leading hashes as their prompts share
    whole blocks; a message more at the end keeps all of them. A prompt of less than 256 bytes
    has none. Hashes are this process's own (Python's keyed SipHash): they mean nothing elsewhere.
    """
    parts = [request[name] for name in _PARTS.get(api, ()) if request.get(name)]
    try:
        # The last part grows, so its closing bracket (or quote) is not among what stays.
        text = b"".join([orjson.dumps(part) for part in parts])[:-1]
    except orjson.JSONEncodeError:  # nested deeper than it writes, though it reads it
        return ()
    found = []
    so_far = start = 0
    size = len(text)
    for end in _EDGES:
        if end > size:
            break
        so_far = hash((so_far, text[start:end]))
        found.append(so_far)
        start = end
    return tuple(found)


def session_of(
    headers: Mapping[bytes, bytes], request: Mapping[str, Any]
) -> str | None:
    """The conversation's name, where the client gives one; names of headers are in lower case.

    - ``x-claude-code-session-id``: Claude Code since 2.1.86 (its LLM gateway protocol);
      before, inside ``metadata.user_id``, as JSON or behind ``_session_``;
    - ``session-id``, formerly ``session_id``: Codex CLI; ``x-session-affinity`` and
      ``x-opencode-session``: OpenCode; ``x-session-id``: what other routers document;
    - ``prompt_cache_key``: OpenAI's field for requests with a common prefix; Codex puts its
      conversation there.

    ``user`` and ``safety_identifier`` name people, who have many conversations: not sessions.
    """
    for name in _SESSION_HEADERS:
        if value := headers.get(name):
            return _clean(value.decode("latin-1"))
    key = request.get("prompt_cache_key")
    if isinstance(key, str) and key:
        return _clean(key)
    metadata = request.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    return _session_in(user) if isinstance(user, str) else None


def _session_in(user: str) -> str | None:
    """The session within Claude Code's ``metadata.user_id``; None in what others put there."""
    if user.startswith("{") and len(user) <= 4 * _LONGEST_SESSION:
        try:
            session = orjson.loads(user).get("session_id")
        except orjson.JSONDecodeError:
            return None
        return _clean(session) if isinstance(session, str) else None
    return _clean(user.rpartition("_session_")[2]) if "_session_" in user else None


def _clean(session: str) -> str | None:
    """None for what is empty or too long to be a name."""
    session = session.strip()
    return session if 0 < len(session) <= _LONGEST_SESSION else None


class Affinity:
    """What the replicas of a route have been sent, and the order that follows from it.

    ``blocks`` is how many hashes are kept for a replica, the least recently used ones dropped
    first: 16,384 are 16 MiB of prompts, more than the caches of most engines, and 3 MB here.
    The same calls in the same order give the same answers.
    """

    def __init__(self, blocks: int = 16_384) -> None:
        self._blocks = blocks
        # For each replica its hashes, oldest first, with the turn of their last use. A prompt's
        # beginning is always younger than its end, so what is kept of a prompt has no holes.
        self._kept: dict[str, OrderedDict[int, int]] = {}
        self._recent: deque[str] = deque()
        self._served: Counter[str] = Counter()
        self._last: dict[str, int] = {}
        self._turn = 0

    def order(
        self,
        replicas: Sequence[str],
        loads: Mapping[str, int],
        blocks: Sequence[int],
        session: str | None = None,
    ) -> list[str]:
        """All of ``replicas``, the cheapest first; ``loads`` are their requests in flight.

        The first one has at most ``max(12, mean / 4) + 4`` more in flight than the least
        loaded. Equals are taken in turn, so that conversations spread while nothing is in flight.
        """
        if len(replicas) < 2:
            return list(replicas)
        cached = [self.cached_kib(replica, blocks) for replica in replicas]
        most = max(cached)
        home = self._home(replicas, session)
        flying = [loads.get(replica, 0) for replica in replicas]
        bound = max(_BOUND, _BOUND_SHARE * sum(flying) / len(replicas))
        share = sum([self._served[replica] for replica in replicas]) / len(replicas)
        costs = {}
        for replica, load, kib in zip(replicas, flying, cached, strict=True):
            missed = _PER_KIB * (most - kib)
            if home is not None and replica != home:
                missed += _SESSION
            surplus = max(0.0, _SURPLUS * (self._served[replica] - share))
            cost = load + min(missed, bound) + min(surplus, _SURPLUS_BOUND)
            costs[replica] = (cost, self._last.get(replica, 0))
        return sorted(replicas, key=costs.__getitem__)

    def remember(
        self, replica: str, blocks: Sequence[int], session: str | None = None
    ) -> None:
        """A request went to ``replica``: call it when it is sent, so that the next one knows."""
        self._turn += 1
        self._last[replica] = self._turn
        self._count(replica)
        kept = self._kept.setdefault(replica, OrderedDict())
        for block in reversed(blocks):
            kept[block] = self._turn
            kept.move_to_end(block)
        if session is not None:
            name = hash(session)
            kept[name] = self._turn
            kept.move_to_end(name)
        while len(kept) > self._blocks:
            kept.popitem(last=False)

    def forget(self, replica: str) -> None:
        """The replica is gone, or has started anew: its cache is empty."""
        self._kept.pop(replica, None)
        self._last.pop(replica, None)
        self._served.pop(replica, None)
        self._recent = deque(name for name in self._recent if name != replica)

    def cached_kib(self, replica: str, blocks: Sequence[int]) -> float:
        """How much of a prompt's beginning was sent to ``replica``, in KiB: 0 where nothing was."""
        kept = self._kept.get(replica)
        if not kept or not blocks or blocks[0] not in kept:
            return 0.0
        # By bisection, since what is kept has no holes.
        known, end = 1, min(len(blocks), len(_EDGES))
        while known < end:
            middle = (known + end + 1) // 2
            if blocks[middle - 1] in kept:
                known = middle
            else:
                end = middle - 1
        return _EDGES[known - 1] / _KIB

    def __len__(self) -> int:
        """Hashes kept, of all replicas."""
        return sum(len(kept) for kept in self._kept.values())

    def _home(self, replicas: Sequence[str], session: str | None) -> str | None:
        """Which of the replicas the session was sent to last."""
        if session is None:
            return None
        name = hash(session)
        turns = {
            replica: self._kept[replica].get(name, 0)
            for replica in replicas
            if replica in self._kept
        }
        home = max(turns, key=turns.__getitem__, default=None)
        return home if home is not None and turns[home] else None

    def _count(self, replica: str) -> None:
        """Count a request among the recent ones, and let the oldest go."""
        self._recent.append(replica)
        self._served[replica] += 1
        while len(self._recent) > _RECENT * len(self._served):
            self._served[self._recent.popleft()] -= 1
