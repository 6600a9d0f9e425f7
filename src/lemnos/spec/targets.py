"""The targets table: what deployments write and the gateway watches.

It lives in one JSON file that is replaced as a whole. It holds no secret: a target
names the file that holds its key, and clients' keys are kept as SHA-256 digests.
"""

from __future__ import annotations

from typing import Literal

from lemnos.spec.base import Value

TARGETS_VERSION = 1


class Target(Value):
    """One place that a request may be sent to."""

    name: str
    kind: Literal["replica"] = "replica"
    base_url: str
    """Without the ``/v1``: ``http://127.0.0.1:41827``."""
    key_file: str | None = None
    """The file with the bearer key that this target wants."""


class Route(Value):
    """A model's name, and the targets that serve it, in order of preference."""

    model: str
    targets: tuple[Target, ...] = ()
    """Empty while no replica is ready: the gateway answers 503."""
    created: int = 0
    """Epoch seconds, shown by ``/v1/models``."""
    context: int | None = None


class TargetTable(Value):
    """Everything that the gateway routes by; ``revision`` counts the tables written."""

    version: int = TARGETS_VERSION
    revision: int
    routes: tuple[Route, ...] = ()
    key_digests: tuple[str, ...] = ()
    """SHA-256 of the keys that clients may use; empty: the endpoint is keyless."""
