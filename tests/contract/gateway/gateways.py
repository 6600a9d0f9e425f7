"""Running gateways, and what tests send them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from lemnos.deployments.targets import write_table
from lemnos.gateway.keys import digest
from lemnos.spec.targets import ClientKey, Route, Target, TargetTable
from tests import processes, upstream
from tests.processes import Process

CHAT = "/v1/chat/completions"
BODY = {
    "model": "m",
    "messages": [{"role": "user", "content": "hi"}],
    "unknown": {"x": 1},
}


@dataclass
class Gateway:
    """A running gateway."""

    url: str
    table: Path
    process: Process

    def write(
        self, *urls: str, keys: tuple[str, ...] = (), key_file: str | None = None
    ) -> None:
        table = table_of(*urls, keys=keys, key_file=key_file)
        write_table(self.table, table)

    def post(self, body: Any = BODY, path: str = CHAT, **more: Any) -> httpx2.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        with httpx2.Client(trust_env=False, timeout=30) as client:
            return client.post(self.url + path, content=content, **more)

    def get(self, path: str, **more: Any) -> httpx2.Response:
        with httpx2.Client(trust_env=False, timeout=30) as client:
            return client.get(self.url + path, **more)


def table_of(
    *urls: str, keys: tuple[str, ...] = (), key_file: str | None = None
) -> TargetTable:
    targets = tuple(
        Target(name=f"engine-{n}", base_url=url, key_file=key_file)
        for n, url in enumerate(urls)
    )
    known = tuple(
        ClientKey(name=f"key-{n}", sha256=digest(key)) for n, key in enumerate(keys)
    )
    route = Route(model="m", targets=targets, created=1_700_000_000, context=4096)
    return TargetTable(revision=1, routes=(route,), keys=known)


Start = Callable[..., Gateway]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts gateways in front of engine URLs; ends them after the test."""
    with contextlib.ExitStack() as stack:

        def _start(
            *urls: str,
            table: TargetTable | None = None,
            words: tuple[str, ...] = (),
            **more: Any,
        ) -> Gateway:
            path = tmp_path / "targets.json"
            write_table(path, table or table_of(*urls, **more))
            words = (*words, "--targets", str(path), "--port", "0")
            process = stack.enter_context(processes.running("lemnos.gateway", *words))
            assert process.stdout
            url = process.stdout.readline().split()[-1]
            return Gateway(url, path, process)

        yield _start


@pytest.fixture
def behind(start: Start) -> Iterator[Callable[..., tuple[Gateway, upstream.Upstream]]]:
    """A gateway in front of one engine with a script."""
    with contextlib.ExitStack() as stack:

        def _behind(
            script: upstream.Script, **more: Any
        ) -> tuple[Gateway, upstream.Upstream]:
            engine = stack.enter_context(upstream.serving(script))
            return start(engine.url, **more), engine

        yield _behind


Behind = Callable[..., tuple[Gateway, upstream.Upstream]]


def sse(*texts: str) -> list[bytes]:
    """OpenAI chat chunks as an engine sends them."""
    chunks = [
        {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m",
         "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        for text in texts
    ]  # fmt: skip
    return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks]
