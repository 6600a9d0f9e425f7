"""A deployment whose clients have keys with limits, and that follows their file."""

from __future__ import annotations

import socket
from pathlib import Path

import httpx2
import pytest

import lemnos
from tests.command import lemnos as run
from tests.command import report
from tests.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("embedded")]

BODY = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "hi"}],
    "max_tokens": 2,
}


def test_keys_are_followed_while_it_runs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    spec, keys = tmp_path / "deployment.yaml", tmp_path / "keys.yaml"
    spec.write_text(
        "model: smollm2-135m-instruct\nworkload: {context: 512, concurrency: 2}\n"
        f"endpoint: {{port: {port}, keys_file: keys.yaml}}\n"
    )
    assert "has no key" in run("up", str(spec), code=1).stderr
    ann = report("keys", "add", "ann", "--keys-file", str(keys))["key"]
    name = report("up", str(spec))["name"]

    def asked(key: str) -> int:
        with httpx2.Client(trust_env=False, timeout=60) as client:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            return client.post(url, json=BODY, headers={"x-api-key": key}).status_code

    try:
        assert (asked(ann), asked("x" * 43)) == (200, 401)
        bob = report("keys", "add", "bob", "--models", "another")
        assert bob["in_force"] == [f"deployment {name}"]
        until(lambda: asked(bob["key"]) in (403, 404))
        run("keys", "rm", "ann")
        until(lambda: asked(ann) == 401)
        assert run("chat", "--prompt", "hi", "--max-tokens", "2").stdout.strip()
    finally:
        lemnos.down(name, drain=False)
