"""A prefill/decode group behind Dynamo's real frontend, as a target by URL. Its engines are
Dynamo's own simulated ones."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from lemnos.hardware.ports import free_port
from lemnos.paths import cache_dir
from lemnos.spec.targets import Api, Route, Target, TargetTable
from tests.contract.gateway.gateways import CHAT, Start
from tests.tiny_glm import make_tiny_glm
from tests.waiting import until

# Looked for before the tests' own home hides it.
HOME = cache_dir() / "tests" / "dynamo-1.6.1"
pytestmark = [
    pytest.mark.bed,
    pytest.mark.skipif(
        not (HOME / "installed").exists(),
        reason="no real Dynamo: tests/contract/gateway/install_dynamo.sh installs it",
    ),
]
CHATTED = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "a"}]}  # fmt: skip


@pytest.fixture
def frontend(tmp_path: Path) -> Iterator[str]:
    """The base URL of a frontend that has a prefill and a decode engine."""
    port = free_port("127.0.0.1")
    mocker = ["dynamo.mocker", "--model-path", str(make_tiny_glm(tmp_path / "model"))]
    mocker += ["--model-name", "m", "--speedup-ratio", "0", "--disaggregation-mode"]
    env = os.environ | {
        "DYN_DISCOVERY_BACKEND": "file",
        "DYN_FILE_KV": str(tmp_path / "store"),
        "HF_HUB_OFFLINE": "1",
    }
    with contextlib.ExitStack() as stack:
        for number, words in enumerate(
            (
                ("dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port)),
                (*mocker, "prefill", "--bootstrap-ports", str(free_port("127.0.0.1"))),
                (*mocker, "decode"),
            )
        ):  # fmt: skip
            log = stack.enter_context((tmp_path / f"{number}.log").open("wb"))
            python = str(HOME / "venv" / "bin" / "python")
            process = subprocess.Popen(
                [python, "-m", *words], env=env, stdout=log, stderr=log
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
        url = f"http://127.0.0.1:{port}"
        client = stack.enter_context(httpx2.Client(trust_env=False, timeout=30))

        def ready() -> bool:
            try:
                return client.post(url + CHAT, json=CHATTED).status_code == 200
            except httpx2.HTTPError:
                return False

        until(ready, within_s=120)
        yield url


def test_a_frontend_is_a_target_like_any_other(frontend: str, start: Start) -> None:
    apis: tuple[Api, ...] = ("chat", "completions", "embeddings", "responses")
    target = Target(name="dynamo", base_url=frontend, apis=apis)
    table = TargetTable(revision=1, routes=(Route(model="m", targets=(target,)),))
    gateway = start(table=table)

    def post(body: object, path: str = CHAT) -> httpx2.Response:
        return gateway.post(body, path, headers={"content-type": "application/json"})

    got = post(CHATTED)
    assert got.status_code == 200 and got.json()["usage"]["completion_tokens"] == 5
    events = post({**CHATTED, "stream": True}).text.split("\n\n")
    assert events[0].startswith("data: {") and "data: [DONE]" in events
    assert not any('"usage":{' in event for event in events), "it was not asked for"
    asked = {"model": "m", "prompt": "a", "max_tokens": 3}
    assert post(asked, "/v1/completions").json()["choices"]
    asked = {"model": "m", "input": "a", "max_output_tokens": 16}
    assert post(asked, "/v1/responses").json()["object"] == "response"
    said = post(CHATTED, "/v1/messages").json()
    assert said["type"] == "message" and said["usage"]["output_tokens"] == 5
    refused = post({**CHATTED, "unknown": 1})
    assert refused.status_code == 400 and "unknown" in refused.text
    assert post({"model": "m", "prompt": "a"}, "/tokenize").status_code == 501
