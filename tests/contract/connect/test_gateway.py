"""A client connected through the real gateway: which target answered, and what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.deployments import gateways
from lemnos.gateway import revisions
from lemnos.hardware.ports import free_port
from tests import upstream
from tests.command import failing, lemnos, report

ANSWERS = {
    "choices": [{"message": {"role": "assistant", "content": "Ready."}}],
    "content": [{"type": "text", "text": "Ready."}],
    "data": [{"embedding": [0.0, 1.0]}],
}


@pytest.fixture
def engine() -> Iterator[upstream.Upstream]:
    with upstream.serving(upstream.answer(json.dumps(ANSWERS).encode())) as running:
        yield running


@pytest.fixture
def gateway(engine: upstream.Upstream, tmp_path: Path) -> Iterator[str]:
    """The URL of a gateway before a chat model and an embedding model."""
    file, port = tmp_path / "gateway.yaml", free_port("127.0.0.1")
    file.write_text(
        f"listen: {{port: {port}}}\n"
        "models:\n"
        f"  chat: {{local: [{{url: {engine.url}, name: box}}]}}\n"
        f"  vectors: {{local: [{{url: {engine.url}, name: encoder, dimensions: [2]}}]}}\n"
    )
    lemnos("gateway", "run", str(file))
    yield f"http://127.0.0.1:{port}"
    for files in revisions.gateways():
        gateways.stop(files)


def test_the_gateway_that_runs_is_the_endpoint(
    gateway: str, engine: upstream.Upstream, tmp_path: Path
) -> None:
    assert f"{gateway}: serves chat, vectors" in failing("connect", "openai")
    to = ("--model", "chat", "--embedding-model", "vectors")
    lemnos("connect", "langchain", "--write", str(tmp_path / ".env"), *to)
    lemnos("connect", "claude-code", "--project", str(tmp_path), *to)
    assert gateway in (tmp_path / ".env").read_text()
    answers = report("connect", "--check")
    assert [answer["error"] for answer in answers] == [""] * 5
    assert [answer["target"] for answer in answers] == [*["box"] * 4, "encoder"]
    assert {asked.path for asked in engine.asked} == {
        "/v1/messages",
        "/v1/chat/completions",
        "/v1/embeddings",
    }
