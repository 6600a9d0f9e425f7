"""How long a target goes on working after the client went away: by phase, over loopback.

Wanted: within 100 ms in every phase. ``sh scripts/uv run python benchmarks/cancelling.py``
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lemnos.deployments.targets import write_table
from lemnos.spec.targets import Route, Target, TargetTable

ROUNDS = 50
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
WHOLE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
)
PHASES = {
    "streamed, before the first byte": (True, b""),
    "streamed, after the head": (True, SSE),
    "streamed, in the middle": (True, SSE + EVENT),
    "not streamed, before the answer": (False, b""),
    "not streamed, half an answer": (False, WHOLE + b'{"half'),
}


class Engine:
    """Answers with ``said`` and then works on, until its connection is closed."""

    def __init__(self) -> None:
        self.said = b""
        self.asked = asyncio.Event()
        self.dropped = asyncio.Event()

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One request."""
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self.said)
        self.asked.set()
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.dropped.set()
        writer.close()


async def _dropped_after(
    port: int, engine: Engine, streamed: bool, said: bytes
) -> float:
    """Seconds from the client's close to the target's."""
    engine.said = said
    engine.asked.clear()
    engine.dropped.clear()
    _, client = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"model": "m", "messages": [], "stream": streamed}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}"
    client.write(head.encode() + b"\r\n\r\n" + body)
    await engine.asked.wait()
    await asyncio.sleep(0.02)  # what the engine said is on its way
    since = time.perf_counter()
    client.close()
    await engine.dropped.wait()
    return time.perf_counter() - since


async def _measure(directory: Path) -> None:
    engine = Engine()
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    table = directory / "targets.json"
    route = Route(model="m", targets=(Target(name="engine", base_url=url),))
    write_table(table, TargetTable(revision=1, routes=(route,)))
    command = [sys.executable, "-m", "lemnos.gateway", "--targets", str(table)]
    gateway = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert gateway.stdout
        port = int(gateway.stdout.readline().rpartition(b":")[2])
        sys.stdout.write(
            "| phase | median ms | worst of 50, ms | wanted |\n|---|---|---|---|\n"
        )
        for phase, (streamed, said) in PHASES.items():
            took = [
                await _dropped_after(port, engine, streamed, said) * 1000
                for _ in range(ROUNDS)
            ]
            verdict = "met" if max(took) <= 100 else "MISSED"
            sys.stdout.write(
                f"| {phase} | {statistics.median(took):.1f} | {max(took):.1f} | <= 100, {verdict} |\n"
            )
    finally:
        gateway.terminate()
        gateway.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(_measure(Path(made)))
