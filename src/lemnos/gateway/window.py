"""What happened in the last so many seconds: a sliding window, for limits and breakers.

Pure: the time is an argument, in seconds of a clock that never goes back.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

SLOTS = 240
"""Into how many parts a window is split: what happened in one part is forgotten together, so
that a window stays small however much happens (a minute's are a quarter of a second)."""


class Window:
    """The sum of amounts of the last ``span_s`` seconds.

    An amount is never forgotten before it is ``span_s`` old, and at most ``span_s / slots``
    later: who stays below a limit here stays below it in every span of time, and there is
    no edge at which twice as much would fit.
    """

    __slots__ = ("span_s", "_slot_s", "_parts", "_total")

    def __init__(self, span_s: float, slots: int = SLOTS) -> None:
        self.span_s = span_s
        self._slot_s = span_s / slots
        self._parts: deque[list[float]] = deque()  # [first time, last time, amount]
        self._total: float = 0

    def add(self, amount: float, now: float) -> None:
        """``amount`` (not negative) happened at ``now``."""
        self._forget(now)
        self._total += amount
        parts = self._parts
        if parts and now - parts[-1][0] < self._slot_s:
            part = parts[-1]
            part[1] = max(part[1], now)
            part[2] += amount
        else:
            parts.append([now, now, amount])

    def total(self, now: float) -> float:
        """The sum, whole where only whole amounts were added."""
        self._forget(now)
        return self._total

    def below_at(self, limit: float, now: float) -> float:
        """From when on the sum is below ``limit`` if nothing is added; infinite if never."""
        left = self.total(now)
        if left < limit:
            return now
        if limit <= 0:
            return math.inf
        for _, last, amount in self._parts:
            left -= amount
            if left < limit:
                return last + self.span_s
        return self.empty_at(now)

    def empty_at(self, now: float) -> float:
        """From when on nothing is left if nothing is added."""
        self._forget(now)
        return self._parts[-1][1] + self.span_s if self._parts else now

    def refill(self, aged: Iterable[tuple[float, float]], now: float) -> None:
        """Hold only these ``(age in seconds, amount)`` pairs, in any order."""
        self._parts.clear()
        self._total = 0
        for age, amount in sorted(aged, reverse=True):
            self.add(amount, now - max(age, 0.0))

    def widen(self, span_s: float, slots: int = SLOTS) -> None:
        """Go on with another span; what was forgotten stays so."""
        self.span_s = span_s
        self._slot_s = span_s / slots

    def _forget(self, now: float) -> None:
        parts, span = self._parts, self.span_s
        while parts and parts[0][1] + span <= now:
            self._total -= parts.popleft()[2]
        if not parts:
            self._total = 0  # and with it what rounding left
