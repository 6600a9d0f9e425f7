"""What the gateway remembers of targets: load, waits, breakers, prompts, answers' owners."""

from __future__ import annotations

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping

from lemnos.gateway.affinity import Affinity
from lemnos.gateway.breaker import Breaker, RetryBudget
from lemnos.gateway.metrics import Metrics
from lemnos.gateway.routing import Seen
from lemnos.spec.targets import Target

FADE_S = 10.0
"""A first token's time is half forgotten after so long: a queue that was long may be gone."""
MAX_ANSWERS = 100_000
"""Ids of answers whose replica is remembered, for ``previous_response_id``."""

LONGEST_ID = 200
"""Characters; providers' have about 60. A longer one is not remembered."""

OPENNESS = {"closed": 0.0, "half-open": 0.5, "open": 1.0}


class Waits:
    """How long a target lets requests wait for their first token."""

    def __init__(self) -> None:
        self._since: OrderedDict[int, float] = OrderedDict()
        self._last_s = 0.0
        self._last_at = 0.0

    def began(self, request: int, now: float) -> None:
        """A streamed request was sent."""
        self._since[request] = now

    def spoke(self, request: int, now: float) -> None:
        """Its first token came."""
        since = self._since.pop(request, None)
        if since is not None:
            self._last_s, self._last_at = now - since, now

    def ended(self, request: int) -> None:
        """It is over, with or without a first token."""
        self._since.pop(request, None)

    def estimate(self, now: float) -> float:
        """Seconds: the oldest that still waits, or the last known, which fades."""
        oldest = next(iter(self._since.values()), now)
        faded = self._last_s * math.exp2((self._last_at - now) / FADE_S)
        return max(now - oldest, faded)


class Fleet:
    """Targets by their name. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.in_flight: Counter[str] = Counter()
        self.breakers: dict[str, Breaker] = {}
        self.waits: dict[str, Waits] = {}
        self.retries = RetryBudget()
        self._affinity: dict[str, Affinity] = {}
        self._answers: OrderedDict[str, tuple[str, str | None]] = OrderedDict()

    def breaker(self, name: str) -> Breaker:
        """The target's breaker."""
        if name not in self.breakers:
            self.breakers[name] = Breaker()
        return self.breakers[name]

    def wait(self, name: str) -> Waits:
        """The target's waits."""
        if name not in self.waits:
            self.waits[name] = Waits()
        return self.waits[name]

    def affinity(self, model: str) -> Affinity:
        """The prompts that a route's replicas have seen."""
        if model not in self._affinity:
            self._affinity[model] = Affinity()
        return self._affinity[model]

    def seen(
        self, targets: Iterable[Target], now: float, waits: bool
    ) -> Mapping[str, Seen]:
        """The state of ``targets``; their waits only where a policy asks for them."""
        return {
            target.name: Seen(
                allowed=self.breaker(target.name).allows(now),
                wait_s=self.wait(target.name).estimate(now) if waits else 0.0,
            )
            for target in targets
        }

    def remember_answer(self, answer_id: str, target: str, key: str | None) -> None:
        """``target`` has the answer, made for ``key``, that a later request may name."""
        if len(answer_id) > LONGEST_ID:
            return
        self._answers[answer_id] = (target, key)
        if len(self._answers) > MAX_ANSWERS:
            self._answers.popitem(last=False)

    def owner_of(self, answer_id: str, key: str | None) -> str | None:
        """The target that has an answer; None too where it was another key's."""
        target, whose = self._answers.get(answer_id, (None, None))
        return target if whose == key else None

    def knows_answer(self, answer_id: str) -> bool:
        """Whether an answer's target is known, whoever it was made for."""
        return answer_id in self._answers

    def show(self, metrics: Metrics) -> None:
        """Gauges of what targets do at each scrape."""
        metrics.gauge(
            "lemnos_in_flight",
            "Requests that a target serves now.",
            "target",
            lambda: {name: self.in_flight[name] for name in self.breakers},
        )
        metrics.gauge(
            "lemnos_breaker_open",
            "1 where a target failed so often that it gets nothing, 0.5 while one request tries it.",
            "target",
            lambda: {
                name: OPENNESS[breaker.state(time.monotonic())]
                for name, breaker in self.breakers.items()
            },
        )

    def keep_only(self, names: Iterable[str], models: Iterable[str]) -> None:
        """Forget targets and routes that are gone from the table; what targets serve yet stays
        counted."""
        for model in set(self._affinity) - set(models):
            del self._affinity[model]
        gone = (set(self.breakers) | set(self.waits) | set(self.in_flight)) - set(names)
        for name in gone:
            self.breakers.pop(name, None)
            self.waits.pop(name, None)
            if not self.in_flight[name]:
                del self.in_flight[name]
            for affinity in self._affinity.values():
                affinity.forget(name)
