"""What each client is told: decisions, without a file or a network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lemnos.connect import claude_code, hephaestus, sdks
from lemnos.connect.access import Access, access, exports, key_command, key_value
from lemnos.connect.check import Ask, asks_for, body_of, read_answer
from lemnos.connect.documents import edited, read
from lemnos.errors import LemnosError
from tests.unit.connect.configurations import HEPHAESTUS, SETTINGS

HERE = Access("http://127.0.0.1:5366", "glm-4.6")
KEYED = Access("http://gw:1", "m", Path("/keys/it's mine"))


def forged(text: str = HEPHAESTUS, to: Access = HERE) -> Any:
    """The configuration as Hephaestus's own YAML reader sees it after the edit."""
    wanted = hephaestus.edits(read("yaml", text, "f"), to, "f")
    return yaml.safe_load(edited("yaml", text, wanted, "f"))


def test_every_component_of_hephaestus_goes_through_openrouters_route() -> None:
    llm = forged()["llm"]
    assert llm["providers"]["openrouter"] == {
        "api_key_env": "OPENROUTER_API_KEY",
        "base_url": "http://127.0.0.1:5366/v1",
    }
    assert set(llm["model_assignments"]) == set(hephaestus.COMPONENTS)
    for component in llm["model_assignments"].values():
        assert (component["provider"], component["model"]) == ("openrouter", "glm-4.6")
        assert "openrouter_provider" not in component
        assert component["max_tokens"] > 0
    assert llm["model_assignments"]["agent_monitoring"]["temperature"] == 0.3
    assert llm["default_model"] == "glm-4.6"
    assert llm["embedding_model"] == "text-embedding-3-large"


def test_agents_never_get_a_cli_model_with_glm_in_it() -> None:
    agents = forged()["agents"]
    assert (agents["cli_model"], agents["default_cli_tool"]) == ("sonnet", "claude")
    assert (
        forged(HEPHAESTUS.replace("GLM-4.6", "opus"))["agents"]["cli_model"] == "opus"
    )
    bare = HEPHAESTUS.replace("agents:", "others:")
    assert forged(bare)["agents"] == {
        "cli_model": "sonnet",
        "default_cli_tool": "claude",
    }


def test_a_key_variable_is_a_name_and_never_a_command() -> None:
    named = HEPHAESTUS.replace('"OPENROUTER_API_KEY"', '"MY_KEY"')
    assert hephaestus.key_variable(read("yaml", named, "f")) == "MY_KEY"
    for bad in ('""', "null", "7", '"X=1; touch /x; Y"', '"É"'):
        text = HEPHAESTUS.replace('"OPENROUTER_API_KEY"', bad)
        assert hephaestus.key_variable(read("yaml", text, "f")) == "OPENROUTER_API_KEY"
        openrouter = forged(text)["llm"]["providers"]["openrouter"]
        assert openrouter["api_key_env"] == "OPENROUTER_API_KEY"


def test_hephaestus_gets_an_environment_without_an_empty_variable() -> None:
    made = hephaestus.variables(read("yaml", HEPHAESTUS, "f"), HERE)
    assert made == {
        "OPENROUTER_API_KEY": "lemnos",
        "OPENROUTER_BASE_URL": "http://127.0.0.1:5366/v1",
        "ANTHROPIC_API_KEY": "lemnos",
        "ANTHROPIC_AUTH_TOKEN": "lemnos",
        "ANTHROPIC_BASE_URL": "http://127.0.0.1:5366",
        "ANTHROPIC_DEFAULT_SONNET_MODEL": "glm-4.6",
        "ANTHROPIC_DEFAULT_OPUS_MODEL": "glm-4.6",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "glm-4.6",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    }


def test_hephaestus_warns_of_what_would_leak() -> None:
    data = read("yaml", HEPHAESTUS, "f")
    calm = "\n".join(hephaestus.notes(data, {"CLI_MODEL": "opus"}))
    assert "tmux" in calm and "3072" in calm and "unset" not in calm
    leaky = {"GLM_API_TOKEN": "t", "CLI_MODEL": "GLM-4.6", "DEFAULT_CLI_TOOL": "codex"}
    said = "\n".join(hephaestus.notes(data, leaky))
    assert all(f"unset {name}" in said for name in leaky)


def test_another_yaml_file_is_not_edited() -> None:
    with pytest.raises(LemnosError, match="has no 'llm' section"):
        hephaestus.edits({"llm": "x"}, HERE, "f")


def settled(text: str = SETTINGS, to: Access = HERE) -> Any:
    wanted = claude_code.edits(read("json", text, "f"), to)
    return json.loads(edited("json", text, wanted, "f"))


def test_claude_code_reads_the_key_from_its_file() -> None:
    made = settled(to=KEYED)
    assert made["apiKeyHelper"] == key_command(Path("/keys/it's mine"))
    assert made["env"] == {
        "EDITOR": "vi",
        "ANTHROPIC_BASE_URL": "http://gw:1",
        "ANTHROPIC_DEFAULT_SONNET_MODEL": "m",
        "ANTHROPIC_DEFAULT_OPUS_MODEL": "m",
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "m",
        "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
    }
    assert "model" not in made
    assert made["permissions"] == json.loads(SETTINGS)["permissions"]
    assert list(made) == ["permissions", "env", "hooks", "apiKeyHelper"]


def test_claude_code_without_a_key_still_has_a_token() -> None:
    made = settled(SETTINGS.replace("claude-opus-4-5", "opusplan"))
    assert made["env"]["ANTHROPIC_AUTH_TOKEN"] == "lemnos"
    assert "apiKeyHelper" not in made and "ANTHROPIC_API_KEY" not in made["env"]
    assert made["model"] == "opusplan"


def test_claude_codes_file_and_warnings() -> None:
    assert claude_code.settings_file(None, {"CLAUDE_CONFIG_DIR": "/x"}) == Path(
        "/x/settings.json"
    )
    project = claude_code.settings_file(Path("p"), {})
    assert project == Path("p/.claude/settings.local.json")
    token = {"ANTHROPIC_AUTH_TOKEN": "t", "ANTHROPIC_API_KEY": ""}
    assert claude_code.notes(token, HERE) == []
    (said,) = claude_code.notes(token, KEYED)
    assert "unset ANTHROPIC_AUTH_TOKEN" in said


def test_exported_lines_survive_a_shell(tmp_path: Path) -> None:
    """Whatever is in a name, and the key is read from its file."""
    keys = tmp_path / 'it\'s $(mine) "here"'
    keys.write_text("\n  the-key-of-16-chars  \nanother-key-of-16\n")
    made = access("http://h:1/v1/", "a 'b' $(false) `c`", keys)
    lines = exports({"K": key_value(made), "M": made.model, "U": made.base_url})
    assert "the-key" not in "".join(lines)
    script = "\n".join(lines) + '\nprintf "%s|%s|%s" "$K" "$M" "$U"'
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "the-key-of-16-chars|a 'b' $(false) `c`|http://h:1/v1"
    assert made.key() == "the-key-of-16-chars"


@pytest.mark.parametrize("content", ["", " \n\n", None, b"\xff\xfe"])
def test_a_key_file_without_a_key_is_a_sentence(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(LemnosError):
        access("http://h:1", "m", path)


def test_a_url_must_be_one() -> None:
    with pytest.raises(LemnosError, match="is not a URL"):
        access("127.0.0.1:5366", "m")


@pytest.mark.parametrize("app", ["openai", "langchain"])
def test_snippets_are_python_for_any_model(app: str) -> None:
    odd = Access("http://h:1", 'a"b\\c{0}', None, "e'f")
    compile(sdks.snippet(app, odd), app, "exec")
    assert ("OPENAI_API_BASE" in sdks.variables(app, odd)) == (app == "langchain")


ASK = Ask("x", "u", "chat", "http://h:1", "m")
VECTOR = Ask("x", "u", "embeddings", "http://h:1", "m", dimensions=3)


@pytest.mark.parametrize(
    ("ask", "status", "body", "want"),
    [
        (ASK, 200, {"choices": [{"message": {"content": "Yes\n!"}}]}, ("Yes !", "")),
        (ASK, 200, {"choices": [{"message": {"content": None}}]}, ("", "")),
        (ASK, 200, {"choices": []}, ("", 'answered what is none: {"choices": []}')),
        (ASK, 200, [], ("", "answered what is none: []")),
        (ASK, 404, {"error": {"message": "no 'm'"}}, ("", "answered 404: no 'm'")),
        (ASK, 500, {"error": "broken"}, ("", "answered 500: broken")),
        (ASK, 502, None, ("", "answered 502: null")),
        (VECTOR, 200, {"data": [{"embedding": [1, 2, 3]}]}, ("3 numbers", "")),
        (
            VECTOR,
            200,
            {"data": [{"embedding": [1]}]},
            ("", "gives 1 numbers, and x needs 3"),
        ),
    ],
)
def test_answers_are_read(
    ask: Ask, status: int, body: Any, want: tuple[str, str]
) -> None:
    assert read_answer(ask, status, json.dumps(body).encode()) == want


def test_a_page_that_is_no_json_is_a_sentence() -> None:
    said, error = read_answer(ASK, 200, b"<html>\xff" + b"x" * 999)
    assert said == "" and error.startswith("answered what is none: <html>")
    assert len(error) < 80


def test_asks_hide_their_key() -> None:
    (ask,) = asks_for(Access("http://h:1", "m"), ["m"])
    assert ask.key == "lemnos" and "lemnos" not in repr(ask)
    assert body_of(ask)["max_tokens"] <= 16
