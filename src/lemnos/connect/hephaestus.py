"""Hephaestus (Ido-Levi/Hephaestus, as of 2025-12): its configuration, and its environment. Pure.

What its code does, and why the edits are these:

- providers are literal names, and only ``openrouter`` and ``azure_openai`` obey a ``base_url``;
  an unknown name, or an empty key variable, gives canned answers without an error;
- ``openrouter_provider`` puts a provider order into every body;
- agents are Claude Code in tmux; if ``cli_model`` has GLM in it and ``$GLM_API_TOKEN`` is set,
  their ANTHROPIC_BASE_URL is hard-coded to a cloud;
- ``HephaestusConfig.validate()`` raises without ``$ANTHROPIC_API_KEY``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lemnos.connect.access import Access, Variables, key_value
from lemnos.connect.documents import GONE, Edits, KeyPath, value_at
from lemnos.errors import LemnosError

FILE = "hephaestus_config.yaml"
COMPONENTS = (
    "task_enrichment",
    "agent_monitoring",
    "guardian_analysis",
    "conductor_analysis",
    "agent_prompts",
)
DIMENSIONS = 3072
"""Of its vectors, hard-coded in src/memory/vector_store.py."""

_PROVIDER: KeyPath = ("llm", "providers", "openrouter")
_ASSIGNMENTS: KeyPath = ("llm", "model_assignments")
_ALIASES = ("sonnet", "opus", "haiku")


def edits(data: Mapping[str, Any], access: Access, where: str) -> Edits:
    """What the configuration's keys shall be. Raises LemnosError for another kind of file."""
    if not isinstance(value_at(data, ("llm",)), Mapping):
        raise LemnosError(
            "has no 'llm' section, so it is no configuration of Hephaestus",
            where=where,
            fix=f"name the right file: --config PATH/{FILE}",
        )
    made: dict[KeyPath, Any] = {
        ("llm", "default_provider"): "openrouter",
        ("llm", "default_model"): access.model,
        (*_PROVIDER, "api_key_env"): key_variable(data),
        (*_PROVIDER, "base_url"): access.base_url,
    }
    for component in _components(data):
        at = (*_ASSIGNMENTS, component)
        made |= {
            (*at, "provider"): "openrouter",
            (*at, "model"): access.model,
            (*at, "openrouter_provider"): GONE,
        }
        if value_at(data, at) in (GONE, None):  # Hephaestus's own defaults
            made |= {(*at, "temperature"): 0.7, (*at, "max_tokens"): 4000}
    cli_model = value_at(data, ("agents", "cli_model"))
    made["agents", "default_cli_tool"] = "claude"
    made["agents", "cli_model"] = cli_model if cli_model in _ALIASES else "sonnet"
    return made


def variables(data: Mapping[str, Any], access: Access) -> Variables:
    """The environment of Hephaestus, and of the agents that it starts."""
    key = key_value(access)
    return {
        key_variable(data): key,
        "OPENROUTER_BASE_URL": access.base_url,  # beats the file
        "ANTHROPIC_API_KEY": key,  # without it, validate() raises
        **agent_variables(access),
        "ANTHROPIC_AUTH_TOKEN": key,
    }


def agent_variables(access: Access) -> dict[str, str]:
    """What tells Claude Code where to go: all but the key. Without the attribution header, it
    puts no line that changes with each request at the head of its prompts."""
    return {
        "ANTHROPIC_BASE_URL": access.url,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": access.model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": access.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": access.model,
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    }


def notes(data: Mapping[str, Any], environ: Mapping[str, str]) -> list[str]:
    """What a person must know, and this file cannot do."""
    said = [
        "Export these before the tmux server of the agents starts: one that runs already does not "
        "pass new variables on.",
        f"Embeddings stay with '{embedding_provider(data)}': Hephaestus stores vectors of {DIMENSIONS} "
        "numbers and sends OpenAI's token ids, which models of one's own do not understand.",
    ]
    token = value_at(data, ("agents", "glm_api_token_env"))
    token = token if isinstance(token, str) and token else "GLM_API_TOKEN"
    if environ.get(token):
        said.append(
            f"{token} is set: a phase whose cli_model has GLM in it sends its agents to a cloud, "
            f"whatever is configured here. `unset {token}` prevents it."
        )
    for name, good in (("CLI_MODEL", _ALIASES), ("DEFAULT_CLI_TOOL", ("claude",))):
        if environ.get(name) and environ[name] not in good:
            said.append(
                f"{name}={environ[name]} is set and beats the file: `unset {name}`."
            )
    return said


def assignments(
    data: Mapping[str, Any], environ: Mapping[str, str]
) -> dict[str, tuple[str, str, str]]:
    """Each component's provider, base URL (empty: the provider's own) and model."""
    made = {}
    for component in _components(data):
        at = (*_ASSIGNMENTS, component)
        provider, model = _text(data, (*at, "provider")), _text(data, (*at, "model"))
        url = _text(data, ("llm", "providers", provider, "base_url"))
        if provider == "openrouter":
            url = environ.get("OPENROUTER_BASE_URL") or url
        made[component] = (provider, url, model)
    return made


def key_variable(data: Mapping[str, Any]) -> str:
    """The environment variable that Hephaestus reads openrouter's key from."""
    name = _text(data, (*_PROVIDER, "api_key_env"))
    good = re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII)  # it goes into a shell's line
    return name if good else "OPENROUTER_API_KEY"


def embedding_provider(data: Mapping[str, Any]) -> str:
    """Who makes the embeddings."""
    return _text(data, ("llm", "embedding_provider")) or "openai"


def _components(data: Mapping[str, Any]) -> list[str]:
    present = value_at(data, _ASSIGNMENTS)
    others = present if isinstance(present, Mapping) else {}
    return [*COMPONENTS, *(name for name in others if name not in COMPONENTS)]


def _text(data: Mapping[str, Any], path: KeyPath) -> str:
    value = value_at(data, path)
    return value.strip() if isinstance(value, str) else ""
