"""``lemnos connect --check``: real calls to a server over sockets, which notes what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import upstream
from tests.command import failing, lemnos
from tests.unit.connect.configurations import HEPHAESTUS

KEY = "a-key-that-nobody-may-see"
CHAT = {"choices": [{"message": {"role": "assistant", "content": "Ready."}}]}
MESSAGE = {"type": "message", "content": [{"type": "text", "text": "Ready."}]}
VECTOR = {"data": [{"embedding": [0.0, 1.0, 0.0]}]}
MODELS = {"data": [{"id": "one"}, {"id": "two"}]}
ANY = CHAT | MESSAGE | {"data": VECTOR["data"]}
"""What answers each API at once."""


@pytest.fixture
def server() -> Iterator[upstream.Upstream]:
    """An endpoint that says who answers, as the gateway does."""
    script = upstream.answer(
        json.dumps(ANY).encode(), extra="X-Lemnos-Target: gpu-0\r\n"
    )
    with upstream.serving(script) as running:
        yield running


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str]:
    path = tmp_path / "keys"
    path.write_text(f"{KEY}\n")
    return ("--key-file", str(path))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "hephaestus_config.yaml"
    path.write_text(HEPHAESTUS)
    return path


def checked(*words: str, code: int = 0) -> Any:
    return json.loads(lemnos("connect", *words, "--check", "--json", code=code).stdout)


def test_each_assignment_of_hephaestus_is_called(
    server: upstream.Upstream, config: Path, keys: tuple[str, str]
) -> None:
    words = ("connect", "hephaestus", "--config", str(config))
    lemnos(*words, "--url", server.url, "--model", "glm-4.6", *keys)
    answers = checked("hephaestus")
    assert [answer["use"] for answer in answers] == [
        "task_enrichment",
        "agent_monitoring",
        "guardian_analysis",
        "conductor_analysis",
        "agent_prompts",
    ]
    for answer in answers:
        assert (answer["target"], answer["said"], answer["error"]) == (
            "gpu-0",
            "Ready.",
            "",
        )
        assert answer["seconds"] > 0
    assert [asked.path for asked in server.asked] == ["/v1/chat/completions"] * 5
    assert {json.loads(asked.body)["model"] for asked in server.asked} == {"glm-4.6"}
    assert {asked.headers["authorization"] for asked in server.asked} == {
        f"Bearer {KEY}"
    }

    shown = lemnos(*words, "--check").stdout
    assert "gpu-0" in shown and "ok: Ready." in shown and KEY not in shown


def test_an_assignment_that_goes_elsewhere_is_said(
    server: upstream.Upstream, config: Path
) -> None:
    lemnos(
        *("connect", "hephaestus", "--config", str(config)),
        *("--url", server.url, "--model", "glm-4.6"),
    )
    text = config.read_text()
    text = text.replace('t:\n      provider: "openrouter"', "t:\n      provider: groq")
    assert text.count("groq") == 1
    config.write_text(text.replace("model: glm-4.6", 'model: ""', 1))
    answers = checked("hephaestus", code=1)
    wrong = {answer["use"]: answer["error"] for answer in answers if answer["error"]}
    assert wrong["task_enrichment"] == "it goes to 'groq', past the endpoint"
    assert "it has no model" in wrong.values()
    assert len(server.asked) == 5 - len(wrong)


def test_each_tier_of_claude_code_is_called(
    server: upstream.Upstream, keys: tuple[str, str]
) -> None:
    lemnos("connect", "claude-code", "--url", server.url, "--model", "m", *keys)
    answers = checked("claude-code")
    assert [answer["use"] for answer in answers] == ["sonnet", "opus", "haiku"]
    assert {answer["target"] for answer in answers} == {"gpu-0"}
    for asked in server.asked:
        assert asked.path == "/v1/messages"
        assert (
            asked.headers["anthropic-version"] and KEY in asked.headers["authorization"]
        )


def test_an_env_file_and_everything_that_is_connected(
    server: upstream.Upstream, tmp_path: Path
) -> None:
    to = ("--url", server.url, "--model", "m", "--embedding-model", "e")
    lemnos("connect", "langchain", "--write", str(tmp_path / ".env"), *to)
    lemnos("connect", "claude-code", *to)
    answers = checked()
    uses = {(answer["app"], answer["use"], answer["said"]) for answer in answers}
    assert ("langchain", "embeddings", "3 numbers") in uses
    assert ("langchain", "chat", "Ready.") in uses
    assert ("claude-code", "opus", "Ready.") in uses


def test_an_endpoint_alone_is_checked_model_by_model() -> None:
    script = upstream.answer(json.dumps(MODELS | CHAT).encode())
    with upstream.serving(script) as server:
        answers = checked("--url", server.url)
        assert [answer["model"] for answer in answers] == ["one", "two"]
        assert {answer["target"] for answer in answers} == {None}
        said = failing("connect", "openai", "--url", server.url)
        assert "serves one, two" in said and "--model" in said


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            upstream.answer(b'{"error": {"message": "no replica"}}', "503 Unavailable"),
            "answered 503: no replica",
        ),
        (upstream.answer(b"<html>", kind="text/html"), "answered what is none: <html>"),
        (upstream.reset, "does not answer"),
    ],
)
def test_failures_are_sentences_and_an_exit_code(
    script: upstream.Script, says: str
) -> None:
    with upstream.serving(script) as server:
        (answer,) = checked("--url", server.url, "--model", "m", code=1)
    assert says in answer["error"]
