"""Which targets are worth asking: breakers, retry budgets, and what counts as a failure.

Pure: times are arguments, in seconds of a clock that never goes back (`time.monotonic`).
"""

from __future__ import annotations

import math
from email.utils import parsedate_to_datetime
from typing import Literal

from lemnos.gateway.window import Window

Outcome = Literal["ok", "failed", "busy", "client"]
State = Literal["closed", "open", "half-open"]

FAILURES_IN_A_ROW = 3
RATIO_SPAN_S = 30.0
RATIO_AT_LEAST = 10
"""With fewer outcomes in the span, a ratio says nothing."""
FIRST_OPEN_S = 1.0
LONGEST_OPEN_S = 60.0
PROBE_S = 60.0
"""A probe that has not reported for so long is not waited for: another one may go."""
BUSY_S = 1.0
"""For a target that is busy and does not say for how long."""
LONGEST_BUSY_S = 3600.0
"""What a target says of itself is believed up to here."""

RETRY_SPAN_S = 10.0
RETRY_SHARE = 0.2
RETRY_FLOOR = 10

MISCONFIGURED = frozenset((401, 402, 403, 404))
"""About the provider's key, credit or model name: the client cannot mend it, another target may."""


def classify(
    status: int | None,
    error: Exception | None = None,
    *,
    retry_after: bool = False,
    provider_key: bool = False,
) -> Outcome:
    """What one try at a target says about that target.

    ``failed``: the breaker counts it, and another target is tried. ``busy``: another target
    is tried, and this one only after its Retry-After. ``client``: the client's own mistake
    (or 501: nobody serves that), which goes back as it is. ``status`` is None where no
    answer came. ``retry_after`` tells whether the answer has that header, ``provider_key``
    whether the key that was sent is the gateway's own for a cloud.
    """
    if error is not None or status is None:
        return "failed"
    if status < 300:
        return "ok"
    if status < 400 or status == 408:
        # An API does not redirect (its base URL is wrong, and clients must not be led past
        # the gateway); 408 says that the target gave up a connection.
        return "failed"
    if status == 429 or (status in (503, 529) and retry_after):
        return "busy"
    if provider_key and status in MISCONFIGURED:
        return "failed"
    return "client" if status < 500 or status == 501 else "failed"


def retry_after_s(value: bytes | None, wall: float) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date seen from ``wall``.

    ``wall`` is the time in epoch seconds. None where there is no header or no sense in it.
    """
    text = (value or b"").decode("latin-1").strip()
    try:
        wait = float(text)
    except ValueError:
        try:
            wait = parsedate_to_datetime(text).timestamp() - wall
        except (ValueError, OverflowError, IndexError):
            return None
    return min(max(wait, 0.0), LONGEST_BUSY_S) if math.isfinite(wait) else None


class Breaker:
    """Keeps requests from a target that fails.

    Closed, it opens after 3 failures in a row, or when over half of at least 10 outcomes of
    the last 30 s failed. Open for 1 s, it then lets one request through as a probe: a
    success closes it, a failure opens it for twice as long, up to 60 s.

    Each request calls ``started`` and, once it knows, one of ``succeeded``, ``failed``,
    ``busy`` and ``abandoned``. Outcomes of requests that were sent before it opened say
    nothing new, and are not counted while it is open.
    """

    __slots__ = (
        "_outcomes",
        "_failures",
        "_in_a_row",
        "_open_s",
        "_open_until",
        "_probe_until",
        "_busy_until",
    )

    def __init__(self) -> None:
        self._busy_until = -math.inf
        self._open_until: float | None = None
        self._close()

    def state(self, now: float) -> State:
        """Closed, open, or half-open: as soon as a probe may go, and while it is out."""
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half-open"

    def allows(self, now: float) -> bool:
        """Whether a request may go to the target; says the same until one is started."""
        return self.allows_at(now) <= now

    def allows_at(self, now: float) -> float:
        """From when on a request may go, as far as is known now: ``now`` or later."""
        at = max(now, self._busy_until)
        if self._open_until is None:
            return at
        return max(at, self._open_until, self._probe_until)

    def started(self, now: float) -> None:
        """A request was sent: the probe, if the breaker is half-open."""
        if self.state(now) == "half-open":
            self._probe_until = now + PROBE_S

    def succeeded(self, now: float) -> None:
        """The target answered as it should, or with the client's own mistake."""
        state = self.state(now)
        if state == "closed":
            self._in_a_row = 0
            self._outcomes.add(1, now)
        elif state == "half-open":
            self._close()

    def failed(self, now: float) -> None:
        """The target did not answer, or with an error of its own."""
        if self._open_until is not None:
            if now < self._probe_until:
                self._open(min(self._open_s * 2, LONGEST_OPEN_S), now)
            return
        self._in_a_row += 1
        self._outcomes.add(1, now)
        self._failures.add(1, now)
        outcomes = self._outcomes.total(now)
        mostly = 2 * self._failures.total(now) > outcomes >= RATIO_AT_LEAST
        if mostly or self._in_a_row >= FAILURES_IN_A_ROW:
            self._open(FIRST_OPEN_S, now)

    def busy(self, now: float, wait_s: float | None = None) -> None:
        """The target works, and takes nothing more for ``wait_s`` seconds."""
        if self.state(now) == "half-open":
            self._close()
        wait = BUSY_S if wait_s is None else min(max(wait_s, 0.0), LONGEST_BUSY_S)
        self._busy_until = max(self._busy_until, now + wait)

    def abandoned(self, now: float) -> None:
        """The client went away before the target was heard of.

        After a probe, another one may go a second later: not at once, since a target that
        hangs would cost client after client.
        """
        self._probe_until = min(self._probe_until, now + FIRST_OPEN_S)

    def _open(self, for_s: float, now: float) -> None:
        self._open_s = for_s
        self._open_until = now + for_s
        self._probe_until = -math.inf

    def _close(self) -> None:
        self._outcomes = Window(RATIO_SPAN_S, slots=30)
        self._failures = Window(RATIO_SPAN_S, slots=30)
        self._in_a_row = 0
        self._open_s = FIRST_OPEN_S
        self._open_until = None
        self._probe_until = -math.inf


class RetryBudget:
    """Keeps retries from becoming the load that nobody recovers from.

    In any 10 s at most 10 retries, or a fifth of as many requests. A window and not a
    bucket of a fixed size: the latter would be too small for the open requests of a busy
    replica that dies, or too large for a few clients.
    """

    __slots__ = ("_requests", "_retries")

    def __init__(self) -> None:
        self._requests = Window(RETRY_SPAN_S, slots=20)
        self._retries = Window(RETRY_SPAN_S, slots=20)

    def requested(self, now: float) -> None:
        """A client's request came, whatever becomes of it."""
        self._requests.add(1, now)

    def take(self, now: float) -> bool:
        """Whether one more try may be made; it counts as made."""
        share = RETRY_SHARE * self._requests.total(now)
        if self._retries.total(now) + 1 > max(RETRY_FLOOR, share):
            return False
        self._retries.add(1, now)
        return True
