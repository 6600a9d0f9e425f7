"""What clients' keys may use: models, requests, tokens, requests at once, dollars.

Pure: times are arguments, in seconds of a clock that never goes back (`time.monotonic`), so
that a wall clock that jumps grants and takes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lemnos.gateway.window import Window
from lemnos.spec.targets import ClientKey

MINUTE_S = 60.0
DAY_S = 86400.0

_REQUESTS, _TOKENS = (
    tuple(
        b"x-ratelimit-%b-%b" % (what, of) for what in (b"limit", b"remaining", b"reset")
    )
    for of in (b"requests", b"tokens")
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not admitted: 403 for ever, 429 for now."""

    status: int
    message: str
    code: str
    """In OpenAI's words."""
    retry_after_s: float | None = None
    """Whoever waits so long is admitted, if the key does nothing else meanwhile. None where
    nobody knows: a 403, or a limit that frees when another request ends."""


class _Use:
    """What one key has used."""

    __slots__ = ("requests", "tokens", "spent", "told_s", "in_flight", "gone")

    def __init__(self, budget_days: float) -> None:
        self.requests = Window(MINUTE_S)
        self.tokens = Window(MINUTE_S)
        self.spent = Window(budget_days * DAY_S)
        self.told_s = 0.0  # how far back the ledger was asked for
        self.in_flight = 0
        self.gone = False


class Limits:
    """Use by key, as far as it is needed to say what the key may do next.

    A request is asked for with ``admit``, counted with ``started`` in the same turn of the
    event loop, and ends with ``finished``, exactly once each. Tokens and dollars are known
    only then: what is under way when a key reaches their limit is still finished.

    The limits are those of the ClientKey that is handed in, so a changed one applies at
    once (``budget_days`` with ``update``); use is kept by the key's name, so it outlives a key that is replaced.
    """

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    def update(self, keys: Iterable[ClientKey]) -> list[ClientKey]:
        """Take up a table's keys and forget all others, as soon as nothing of theirs is open.

        Returns those whose spending is to be told with ``seed``: keys that are new, that
        have a budget now, or one that looks back further than before.
        """
        for use in self._uses.values():
            use.gone = True
        unseeded = []
        for key in keys:
            use = self._use(key)
            use.gone = False
            use.spent.widen(span_s := key.budget_days * DAY_S)
            if key.budget_usd is not None and use.told_s < span_s:
                use.told_s = span_s
                unseeded.append(key)
        kept = {n: u for n, u in self._uses.items() if u.in_flight or not u.gone}
        self._uses = kept
        return unseeded

    def seed(
        self, key: ClientKey, spent: Iterable[tuple[float, float]], now: float
    ) -> None:
        """What the ledger knows: pairs of (age in seconds, US dollars), in any order.

        It replaces what is known here, so write out the ledger before reading it.
        """
        self._use(key).spent.refill(spent, now)

    def admit(self, key: ClientKey, model: str, now: float) -> Refusal | None:
        """Why a request for ``model`` (a route's own name) may not be sent, or None."""
        if key.models is not None and model not in key.models:
            message = f"the key '{key.name}' may not use the model '{model}'"
            return Refusal(403, message, "model_not_allowed")
        use = self._use(key)
        if key.concurrency is not None and use.in_flight >= key.concurrency:
            message = f"the key '{key.name}' has {use.in_flight} requests open, of {key.concurrency} at once"
            return Refusal(429, message, "rate_limit_exceeded")
        late, over = now, None
        if (most := key.requests_per_minute) is not None:
            if (at := use.requests.below_at(most, now)) > late:
                late, over = at, f"{most} requests a minute"
        if (most := key.tokens_per_minute) is not None:
            if (at := use.tokens.below_at(most, now)) > late:
                late, over = at, f"{most} tokens a minute"
        if (budget := key.budget_usd) is not None:
            if (at := use.spent.below_at(budget, now)) > late:
                late, over = at, f"${budget:g} in {key.budget_days:g} days"
        return _over(key, over, late, now) if over else None

    def started(self, key: ClientKey, now: float) -> None:
        """An admitted request goes on its way."""
        use = self._use(key)
        use.in_flight += 1
        use.requests.add(1, now)

    def finished(
        self, key: ClientKey, tokens: int, cost_usd: float, now: float
    ) -> None:
        """A started request ended, however it did: its tokens in and out, and its cost."""
        use = self._use(key)
        use.in_flight = max(0, use.in_flight - 1)
        if tokens > 0:
            use.tokens.add(tokens, now)
        if cost_usd > 0:
            use.spent.add(cost_usd, now)
        if use.gone and not use.in_flight:
            del self._uses[key.name]

    def in_flight(self, key: ClientKey) -> int:
        """Requests started and not finished."""
        return self._use(key).in_flight

    def spent(self, key: ClientKey, now: float) -> float:
        """US dollars in the budget's days."""
        return self._use(key).spent.total(now)

    def headers(self, key: ClientKey, now: float) -> list[tuple[bytes, bytes]]:
        """OpenAI's x-ratelimit headers, for the limits that the key has.

        ``remaining`` is what may still be used now, ``reset`` how long until all of it may.
        """
        use = self._use(key)
        headers: list[tuple[bytes, bytes]] = []
        for names, most, window in (
            (_REQUESTS, key.requests_per_minute, use.requests),
            (_TOKENS, key.tokens_per_minute, use.tokens),
        ):
            if most is None:
                continue
            left = max(0, most - int(window.total(now)))
            reset = duration(window.empty_at(now) - now)
            headers += zip(names, (b"%d" % most, b"%d" % left, reset), strict=True)
        return headers

    def _use(self, key: ClientKey) -> _Use:
        use = self._uses.get(key.name)
        if use is None:
            use = self._uses[key.name] = _Use(key.budget_days)
        return use


def duration(seconds: float) -> bytes:
    """As OpenAI writes one: ``20ms``, ``1.5s``, ``6m0s``; never shorter than it is."""
    ms = math.ceil(seconds * 1000)
    if ms < 1000:
        return b"%dms" % max(0, ms)
    minutes, ms = divmod(ms, 60_000)
    rest = f"{ms / 1000:g}s"
    return (f"{minutes}m{rest}" if minutes else rest).encode()


def _over(key: ClientKey, what: str, at: float, now: float) -> Refusal:
    if at == math.inf:
        message = f"the key '{key.name}' may spend nothing"
        return Refusal(403, message, "insufficient_quota")
    wait = at - now
    if now + wait < at:  # by rounding
        wait += math.ulp(at)
    code = "insufficient_quota" if what.startswith("$") else "rate_limit_exceeded"
    message = f"the key '{key.name}' has used its {what}; try again in {_said(wait)}"
    return Refusal(429, message, code, wait)


def _said(seconds: float) -> str:
    for unit, size in (("days", DAY_S), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{math.ceil(seconds / size)} {unit}"
    return f"{math.ceil(seconds)} s"
