"""What accounting costs a request and a chunk of a stream, in microseconds of CPU.

    uv run benchmarks/accounting_cost.py

Wanted: a plain chunk under 1.5, observing a request under 15. The best of several rounds, since
the machine is shared. ``a ledger row`` is the writer's thread, off the hot path, but holding
Python's lock at times: the last line is how long another thread then waited at most.
"""

from __future__ import annotations

import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

from lemnos.gateway.entry import Entry
from lemnos.gateway.ledger import Ledger, sqlite_url
from lemnos.gateway.metrics import Metrics
from lemnos.gateway.requestlog import RequestLog
from lemnos.wire.usage import StreamMeter

CHUNK = (
    b'data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk",'
    b'"created":1763700000,"model":"qwen","choices":[{"index":0,"delta":{"content":" word"},'
    b'"logprobs":null,"finish_reason":null}]}\n\n'
)
USAGE = b',"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
ROUNDS, TIMES = 9, 5_000
ROWS = 4_000
"""What the writer finds after a second of the load that the gateway is meant for."""


def main() -> None:
    """Print the table."""
    meter = StreamMeter("chat", drop_usage_chunk=True)
    renaming = StreamMeter("chat", rename=("qwen", "mine"))
    null = CHUNK.replace(b"}\n\n", b',"usage":null}\n\n')
    crlf = CHUNK.replace(b"\n", b"\r\n")
    tells = CHUNK.replace(b"}\n\n", USAGE)
    half = len(CHUNK) // 2

    def in_halves() -> None:
        meter.feed(CHUNK[:half])
        meter.feed(CHUNK[half:])

    show("a chunk", lambda: meter.feed(CHUNK))
    show("a chunk with usage null", lambda: meter.feed(null))
    show("a chunk with CRLF", lambda: meter.feed(crlf))
    show("a chunk, renaming the model", lambda: renaming.feed(CHUNK))
    show("four chunks at once", lambda: meter.feed(CHUNK * 4))
    show("a chunk in two parts", in_halves)
    show("a chunk that reports usage", lambda: meter.feed(tells))

    metrics, entry = Metrics(lambda _: True), an_entry()
    show("an entry", an_entry)
    show("observing a request", lambda: metrics.observe(entry))
    with Path("/dev/null").open("wb") as nowhere:
        log = RequestLog(out=nowhere)
        show("a line of the log", lambda: log.write(entry))
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(sqlite_url(Path(directory) / "ledger.db"))
        show("recording a request", lambda: ledger.record(entry))
        ledger.close()
        row_us, pause_ms = writing(Path(directory) / "other.db", entry)
    say("a ledger row, written by the thread", row_us)
    sys.stdout.write(f"{'longest pause of another thread':38}{pause_ms:9.1f} ms\n")


def writing(path: Path, entry: Entry) -> tuple[float, float]:
    """CPU of a row in us, and the longest gap in ms of a thread that runs all the while."""
    ledger = Ledger(sqlite_url(path))
    for _ in range(ROWS):
        ledger.record(entry)
    longest, before = 0.0, time.perf_counter()
    while ledger.waiting():
        now = time.perf_counter()
        longest, before = max(longest, now - before), now
    ledger.close()
    again = Ledger(sqlite_url(path))  # alone, since the loop above took CPU itself
    began = time.process_time()
    for _ in range(ROWS):
        again.record(entry)
    again.close()
    return (time.process_time() - began) / ROWS * 1e6, longest * 1e3


def an_entry() -> Entry:
    """An entry as the gateway makes one."""
    return Entry(
        at=1_763_700_000.5,
        request_id="0123456789abcdef",
        key="app",
        model="qwen",
        target="here",
        target_kind="replica",
        target_model="Qwen/Qwen3",
        api="chat",
        streamed=True,
        status=200,
        outcome="ok",
        attempts=1,
        input_tokens=100,
        output_tokens=20,
        cached_tokens=60,
        ttft_s=0.03,
        tpot_s=0.02,
        duration_s=0.4,
        cost_usd=None,
        compare_usd=0.25,
    )


def show(what: str, work: Callable[[], object]) -> None:
    """Measure ``work`` and print it."""
    rounds = timeit.repeat(work, timer=time.process_time, number=TIMES, repeat=ROUNDS)
    say(what, min(rounds) / TIMES * 1e6)


def say(what: str, microseconds: float) -> None:
    """A line of the table."""
    sys.stdout.write(f"{what:38}{microseconds:9.2f} us\n")


if __name__ == "__main__":
    main()
