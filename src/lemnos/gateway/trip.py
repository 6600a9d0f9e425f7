"""A request on its way: who asks what, and what became of it so far."""

from __future__ import annotations

from dataclasses import dataclass

from lemnos.gateway.ask import Ask
from lemnos.gateway.exchange import Exchange
from lemnos.spec.targets import ClientKey, Target
from lemnos.wire.usage import Usage


@dataclass(slots=True)
class Trip:
    """Times are monotonic seconds."""

    ask: Ask
    exchange: Exchange
    key: ClientKey | None = None
    blocks: tuple[int, ...] | None = None
    """The prompt's beginnings, as ``affinity.prompt_blocks`` hashes them; None where there is
    nothing to choose by them."""
    session: str | None = None
    attempts: int = 0
    target: Target | None = None
    """The one that answered, or that was asked last."""
    usage: Usage | None = None
    events: int = 0
    first_at: float | None = None
    last_at: float | None = None
    broke_off: bool = False
    answered: bool = False
    """A target's own answer went to the client, whole or in part."""

    @property
    def whose(self) -> str | None:
        """The name of the client's key."""
        return self.key.name if self.key else None
