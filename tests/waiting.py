"""Waiting for something real (a process, a file) to happen: bounded, and never blind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(condition: Callable[[], T], *, within_s: float = 30.0) -> T:
    """The first true answer of ``condition``; fails when there is none ``within_s`` seconds."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not (answer := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.02)
    return answer
