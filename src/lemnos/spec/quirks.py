"""What is special about a model on an engine: parsers, template switches, speculation, overlays."""

from __future__ import annotations

from typing import Any

from lemnos.spec.base import Value


class Overlay(Value):
    """Keys of one of the model's JSON files that are set in a copy, never in the user's files."""

    name: str
    """``glm-4.7-bos-token-1``: its version is part of it."""
    file: str
    """``generation_config.json``."""
    missing: dict[str, Any]
    """Set where the file lacks them."""
    why: str


class KnownIssue(Value):
    """A failure of this model on this engine version."""

    name: str
    symptom: str
    """What the log says."""
    fix: str
    since: str | None = None
    """The first version that has it; None: all before ``fixed``."""
    fixed: str | None = None
    """The first version without it; None: none is known."""


class Quirks(Value):
    """What rendering and serving need to know of a model on one engine version."""

    tool_parser: str | None = None
    reasoning_parser: str | None = None
    reasoning_on: dict[str, Any] = {}
    """``chat_template_kwargs`` that turn reasoning on."""
    reasoning_off: dict[str, Any] = {}
    """The same, to turn it off; empty: it cannot be."""
    reasons_by_default: bool = False
    speculation: dict[str, Any] = {}
    """The engine's flags that speculate with the model's own MTP layers, by name."""
    flags: dict[str, Any] = {}
    """Other flags of the engine that the model needs."""
    env: dict[str, str] = {}
    trust_remote_code: bool = False
    overlays: tuple[Overlay, ...] = ()
    issues: tuple[KnownIssue, ...] = ()
    sources: tuple[str, ...] = ()
    """Where each of it is from."""
