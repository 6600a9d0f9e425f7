"""The latest word of each of several hosts, without waiting for those that do not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from lemnos.errors import LemnosError

T = TypeVar("T")
FRESH_S = 1.0
"""An answer is good for so long, unless something was done on the host."""
PATIENCE_S = 3.0
"""A host that answered before is waited for so long; one that did not, not at all."""
AT_ONCE = 16


class Watch(Generic[T]):
    """``ask`` is called in threads, for one host at a time each; it raises LemnosError."""

    def __init__(self, ask: Callable[[str], T], hosts: Iterable[str]) -> None:
        self._ask = ask
        self._hosts = tuple(hosts)
        self._asked: dict[str, Future[T]] = {}
        self._answered_at: dict[str, float] = {}
        self._slots = threading.Semaphore(AT_ONCE)
        self.last: dict[str, T] = {}
        """What each host said last, if it ever did."""
        self.silent: dict[str, LemnosError] = {}
        """The hosts that do not answer now, and why."""

    def look(self) -> None:
        """Bring ``last`` and ``silent`` up to date, in ``PATIENCE_S`` at most."""
        now = time.monotonic()
        for host in self._hosts:
            due = now - self._answered_at.get(host, -FRESH_S) >= FRESH_S
            if due and host not in self._asked:
                self._asked[host] = self._start(host)
        for host, future in list(self._asked.items()):
            left = now + PATIENCE_S - time.monotonic()
            self._take(host, future, 0.0 if host in self.silent else max(0.0, left))

    def forget(self, host: str) -> None:
        """Something is done there: what was asked before does not count."""
        self._asked.pop(host, None)
        self._answered_at.pop(host, None)

    def _take(self, host: str, future: Future[T], wait_s: float) -> None:
        done, _ = wait([future], wait_s)
        if not done:
            self.silent.setdefault(host, LemnosError("does not answer", where=host))
            return
        del self._asked[host]
        self._answered_at[host] = time.monotonic()
        try:
            self.last[host] = future.result()
            self.silent.pop(host, None)
        except LemnosError as error:
            self.silent[host] = error

    def _start(self, host: str) -> Future[T]:
        future: Future[T] = Future()

        def asking() -> None:
            with self._slots:
                try:
                    future.set_result(self._ask(host))
                except BaseException as error:
                    future.set_exception(error)

        threading.Thread(target=asking, daemon=True).start()
        return future
