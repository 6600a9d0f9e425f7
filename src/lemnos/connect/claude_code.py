"""Claude Code's settings. Pure.

It takes the first of: a cloud's variables, ANTHROPIC_AUTH_TOKEN, ANTHROPIC_API_KEY, the output of
the ``apiKeyHelper`` command. The helper keeps the key out of the settings, so the others must not
be there. Variables in the settings beat the shell's, but those that only the shell has count too.
(Its documentation, "Authentication precedence" and "LLM gateway", as of 2026-10.)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lemnos.connect.access import NO_KEY, Access, key_command
from lemnos.connect.documents import GONE, Edits, KeyPath, value_at
from lemnos.connect.hephaestus import agent_variables

_OTHER_CREDENTIALS = ("ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_API_KEY")
_OTHER_PLACES = (
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
)
_OTHER_MODELS = ("ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL")
TIERS = ("SONNET", "OPUS", "HAIKU")


def settings_file(project: Path | None, environ: Mapping[str, str]) -> Path:
    """The user's settings; or a project's local ones, which are not for its repository."""
    if project is not None:
        return project / ".claude" / "settings.local.json"
    home = environ.get("CLAUDE_CONFIG_DIR") or "~/.claude"
    return Path(home).expanduser() / "settings.json"


def edits(data: Mapping[str, Any], access: Access) -> Edits:
    """What the settings' keys shall be."""
    made: dict[KeyPath, Any] = {
        ("env", name): value for name, value in agent_variables(access).items()
    }
    for name in (*_OTHER_CREDENTIALS, *_OTHER_PLACES, *_OTHER_MODELS):
        made["env", name] = GONE
    if access.key_file:
        made["apiKeyHelper",] = key_command(access.key_file)
    else:
        made["apiKeyHelper",] = GONE
        made["env", "ANTHROPIC_AUTH_TOKEN"] = NO_KEY
    if "claude-" in str(data.get("model", "")):  # not an alias: the endpoint has none
        made["model",] = GONE
    return made


def notes(environ: Mapping[str, str], access: Access) -> list[str]:
    """Variables of this shell that would win over the settings."""
    names = [*_OTHER_PLACES, *_OTHER_MODELS, "ANTHROPIC_API_KEY"]
    if access.key_file:  # else it is in the settings, and beats the shell's
        names.append("ANTHROPIC_AUTH_TOKEN")
    return [
        f"{name} is set in this shell and beats the settings: `unset {name}`."
        for name in names
        if environ.get(name)
    ]


def assignments(data: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The URL, and each tier's model; empty where not set."""
    env = value_at(data, ("env",))
    env = env if isinstance(env, Mapping) else {}
    models = {
        tier.lower(): str(env.get(f"ANTHROPIC_DEFAULT_{tier}_MODEL", ""))
        for tier in TIERS
    }
    return str(env.get("ANTHROPIC_BASE_URL", "")), models
