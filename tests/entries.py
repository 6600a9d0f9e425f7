"""Entries of the ledger, with what a test does not care about filled in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lemnos.gateway.entry import Entry
from lemnos.gateway.ledger import Ledger

ENTRY = Entry(
    at=1_763_700_000.5,
    request_id="r1",
    key="app",
    model="qwen",
    target="here",
    target_kind="replica",
    target_model="Qwen/Qwen3",
    api="chat",
    streamed=True,
    status=200,
    outcome="ok",
    attempts=1,
    input_tokens=100,
    output_tokens=20,
    cached_tokens=60,
    ttft_s=0.03,
    tpot_s=0.02,
    duration_s=0.4,
    cost_usd=None,
    compare_usd=0.25,
)


def entry(**changes: Any) -> Entry:
    """An entry with ``changes``."""
    return replace(ENTRY, **changes)


def refused(**changes: Any) -> Entry:
    """One that no target was asked about."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("target", "target_kind", "target_model", "input_tokens", "output_tokens")
        + ("cached_tokens", "ttft_s", "tpot_s", "cost_usd", "compare_usd")
    )
    told = {"status": 401, "outcome": "refused", "attempts": 0, "key": None}
    return entry(**nothing | told | changes)


def spent(ledger: Ledger, key: str, since: float) -> float:
    """What a key cost, by the ledger."""
    return sum(dollars for _, dollars in ledger.spending(key, since))
