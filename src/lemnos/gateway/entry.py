"""What the gateway notes of each request: the ledger's row, the metrics' and the log's source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lemnos.spec.targets import Api

Outcome = Literal["ok", "client-gone", "broke-off", "refused", "failed"]
"""``client-gone``: the client hung up first. ``broke-off``: the target did, after the first byte.
``refused``: the gateway did not ask any target. ``failed``: none answered."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, when it is over. No text of it, and no secret."""

    at: float
    """When it came, in epoch seconds."""
    request_id: str
    key: str | None
    """The name of the client's key; None on a keyless endpoint."""
    model: str
    """The route."""
    target: str | None
    """The one that answered, or that was asked last."""
    target_kind: Literal["replica", "cloud"] | None
    target_model: str | None
    api: Api
    streamed: bool
    status: int
    """As the client got it."""
    outcome: Outcome
    attempts: int
    """Times that a target was asked."""
    input_tokens: int | None
    """None where the target did not report usage."""
    output_tokens: int | None
    cached_tokens: int | None
    """Among ``input_tokens``."""
    ttft_s: float | None
    """From the request to the first byte of the answer, streamed ones only."""
    tpot_s: float | None
    """Per output token after the first, streamed ones only."""
    duration_s: float
    cost_usd: float | None
    compare_usd: float | None
    """What the cloud would have asked; None where it is unknown."""
