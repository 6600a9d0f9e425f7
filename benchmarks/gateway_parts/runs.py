"""The runs: what is asked of a system, and what came of it. Each returns figures by name."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway_parts import processes
from gateway_parts.processes import Cores, Use
from gateway_parts.systems import MODEL, Command, Setting
from lemnos.errors import LemnosError

Figures = dict[str, float]

SESSIONS = 64
"""Conversations that the small chats belong to: prefix routing has something to tell apart."""
CONNECTIONS = 32
WARM_UP_S = 1.0
SLOW_RATE = 50
"""Requests/s of the latency run."""
STREAMS = 64
OPEN_STREAMS = 1000
FAILOVER_RATE = 200
KILL_EVERY_S = 5.0
DOWN_S = 2.0
SETTLE_S = 5.0
"""Memory is looked at from then on: buffers and pools have their size."""

_INSTRUCTIONS = (
    "You are the assistant of conversation {number}. Answer in one short sentence, without "
    "lists, and say so when you do not know. The reader knows the subject; leave out what "
    "anyone knows, and never repeat the question. Units are metric, dates are ISO 8601."
)


@dataclass(frozen=True)
class Bench:
    """What all runs share: the built programs and files, cores, two mock engines, the key."""

    directory: Path
    cores: Cores
    engines: tuple[int, ...]
    key: str

    def load(
        self, mode: str, port: int, prompt: str, seconds: float, number: int
    ) -> dict[str, Any]:
        """Run the load generator to its end; see load.c for modes and figures."""
        streamed = mode == "streams"
        requests = self.directory / f"{mode}.requests"
        requests.write_bytes(_requests(prompt, self.key, stream=streamed))
        argv = [str(self.directory / "load"), mode, str(port), str(requests)]
        log = self.directory / f"load-{mode}.json"
        log.unlink(missing_ok=True)
        argv += [str(seconds), str(number)]
        process = processes.start(argv, core=self.cores.others, log=log)
        if process.wait(timeout=seconds + 120):
            raise LemnosError(f"the load generator: {log.read_text().strip()[:200]}")
        found: dict[str, Any] = json.loads(log.read_text())
        if found["failed"]:
            sys.stderr.write(f"{mode}: {found['failed']} failed, the first: ")
            sys.stderr.write(f"{found['first_failure'][:200]}\n")
        return found


@dataclass(frozen=True)
class Running:
    """A system that answers: ``pid`` None for the engine itself, the baseline."""

    name: str
    port: int
    pid: int | None


@contextlib.contextmanager
def bench(directory: Path, key: str) -> Iterator[Bench]:
    """Programs built and two mock engines running."""
    cores = processes.two_cores()
    processes.build(directory)
    ports = (processes.free_port(), processes.free_port())
    with contextlib.ExitStack() as stack:
        for port in ports:
            stack.enter_context(engine(directory, cores, port))
        yield Bench(directory, cores, ports, key)


@contextlib.contextmanager
def engine(directory: Path, cores: Cores, port: int) -> Iterator[None]:
    """One mock engine."""
    process = start_engine(directory, cores, port)
    try:
        yield
    finally:
        processes.end(process)


def start_engine(directory: Path, cores: Cores, port: int) -> subprocess.Popen[bytes]:
    """One mock engine that listens already."""
    log = directory / f"engine-{port}.log"
    argv = [str(directory / "engine"), str(port)]
    process = processes.start(argv, core=cores.others, log=log)
    processes.wait_until(lambda: _answers(port, ""), process, log)
    return process


@contextlib.contextmanager
def running(
    bench: Bench,
    name: str,
    make: Callable[[Setting], Command],
    engines: tuple[int, ...],
) -> Iterator[Running]:
    """A system on its core that has answered a completion, and is paused until its ``turn``.

    Raises LemnosError if it cannot be had or does not answer.
    """
    directory = bench.directory / name
    directory.mkdir(exist_ok=True)
    setting = Setting(directory, processes.free_port(), engines, bench.key)
    command, log = make(setting), directory / "log"
    tested = bench.cores.tested
    with processes.started(
        command.argv, core=tested, log=log, env=command.env
    ) as process:
        processes.wait_until(lambda: _answers(setting.port, bench.key), process, log)
        processes.pause(process.pid)
        yield Running(name, setting.port, process.pid)


@contextlib.contextmanager
def turn(system: Running) -> Iterator[None]:
    """While a system has its turn: the others are paused, whatever they still had to do."""
    if system.pid is None:
        yield
        return
    processes.go_on(system.pid)
    try:
        yield
    finally:
        processes.pause(system.pid)


def small(bench: Bench, system: Running, seconds: float) -> Figures:
    """Small chats: requests/s and CPU at full load, latency at 50 requests/s.

    ``cpu_us`` is of the system and its children, a request; ``noise`` the part of its core that
    other processes took meanwhile, 0 to 1; ``alone_per_s`` is the requests/s without that part;
    ``p50_us`` and ``p99_us`` are of whole answers.
    """
    bench.load("closed", system.port, "Hello.", WARM_UP_S, CONNECTIONS)
    before = _use(bench, system)
    full = bench.load("closed", system.port, "Hello.", seconds, CONNECTIONS)
    after = _use(bench, system)
    paced = bench.load("paced", system.port, "Hello.", seconds, SLOW_RATE)
    answered = full["answered"]
    found = {
        "requests_per_s": answered / full["seconds"],
        "failed": full["failed"] + paced["failed"],
        "p50_us": paced["p50_us"],
        "p99_us": paced["p99_us"],
    }
    if before and after and answered:
        found["cpu_us"] = (after.own - before.own) / answered * 1e6
        found["noise"] = processes.others_share(before, after)
        found["alone_per_s"] = found["requests_per_s"] / (1 - min(found["noise"], 0.9))
    return found


def stream(bench: Bench, system: Running, seconds: float) -> Figures:
    """64 streams: a chunk's way at 50 chunks/s each, and chunks/s with 1,000/s each offered.

    ``cpu_us`` is of a chunk in the latter; ``begun`` counts the streams that had one within 5 s.
    """
    relay = bench.load("streams", system.port, _chunks(50), seconds, STREAMS)
    before = _use(bench, system)
    flood = bench.load("streams", system.port, _chunks(1000), seconds, STREAMS)
    after = _use(bench, system)
    found = {
        "chunks_per_s": flood["samples"] / flood["seconds"],
        "lost": relay["lost_streams"] + flood["lost_streams"],
        "begun": min(relay["started_streams"], flood["started_streams"]),
    }
    if relay["samples"]:
        found |= {"relay_p50_us": relay["p50_us"], "relay_p99_us": relay["p99_us"]}
    if before and after and flood["chunks"]:
        found["cpu_us"] = (after.own - before.own) / flood["chunks"] * 1e6
        found["noise"] = processes.others_share(before, after)
    return found


def open_streams(bench: Bench, system: Running, seconds: float) -> Figures:
    """1,000 streams of 5 chunks/s: memory once they run, at the end, and the largest."""
    assert system.pid is not None
    seen: list[tuple[float, float]] = []
    over = threading.Event()
    begin = time.monotonic()

    def look() -> None:
        while not over.wait(0.5):
            seen.append((time.monotonic() - begin, processes.memory_mib(pid)))

    pid = system.pid
    idle = processes.memory_mib(pid)
    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        found = bench.load("streams", system.port, _chunks(5), seconds, OPEN_STREAMS)
    finally:
        over.set()
        watcher.join()
    settled = [memory for at, memory in seen if at > SETTLE_S] or [idle]
    return {
        "streams": found["started_streams"] - found["lost_streams"],
        "lost": found["lost_streams"] + found["failed"],
        "idle_mib": idle,
        "begin_mib": settled[0],
        "end_mib": settled[-1],
        "growth_mib": max(settled) - settled[0],
    }


def failover(
    bench: Bench, name: str, make: Callable[[Setting], Command], seconds: float
) -> Figures:
    """200 requests/s of 50 ms each, while one of two engines is killed every 5 s, in turn.

    A killed engine is back on its port 2 s later. ``kills`` counts them.
    """
    ports = (processes.free_port(), processes.free_port())
    engines = [start_engine(bench.directory, bench.cores, port) for port in ports]
    over = threading.Event()
    kills = 0

    def kill_in_turn() -> None:
        nonlocal kills
        while not over.wait(KILL_EVERY_S - DOWN_S):
            which = kills % 2
            engines[which].send_signal(signal.SIGKILL)
            engines[which].wait()
            kills += 1
            over.wait(DOWN_S)
            engines[which] = start_engine(bench.directory, bench.cores, ports[which])

    try:
        with running(bench, name, make, ports) as system, turn(system):
            killer = threading.Thread(target=kill_in_turn)
            killer.start()
            try:
                found = bench.load(
                    "paced", system.port, "delay:50", seconds, FAILOVER_RATE
                )
            finally:
                over.set()
                killer.join()
    finally:
        for process in engines:
            processes.end(process)
    return {
        "answered": found["answered"],
        "failed": found["failed"],
        "kills": kills,
        "p99_ms": found["p99_us"] / 1e3,
        "max_ms": found["max_us"] / 1e3,
    }


def best(rounds: list[Figures]) -> Figures:
    """Of each figure the best: the most of what is counted a second, the least of the rest.

    Failures are added up, and ``noise`` is that of the round with the most a second.
    """
    found = {}
    for name in {name: None for figures in rounds for name in figures}:
        values = [figures[name] for figures in rounds if name in figures]
        more = name.endswith("_per_s") or name == "begun"
        found[name] = max(values) if more else min(values)
    for name in {"failed", "lost"} & found.keys():
        found[name] = sum(figures[name] for figures in rounds)
    if "noise" in found:
        rate = next(name for name in found if name.endswith("_per_s"))
        found["noise"] = max(rounds, key=lambda figures: figures[rate]).get("noise", 1)
    return found


def _use(bench: Bench, system: Running) -> Use | None:
    return None if system.pid is None else Use.of(system.pid, bench.cores.tested)


def _chunks(rate: int) -> str:
    return f"chunks:100000000 rate:{rate}"


def _answers(port: int, key: str) -> bool:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello."}]}
    return processes.answers(port, body, key)


def _requests(prompt: str, key: str, *, stream: bool) -> bytes:
    """Whole HTTP requests, a NUL after each: one for each conversation."""
    found = b""
    for number in range(SESSIONS):
        system = {"role": "system", "content": _INSTRUCTIONS.format(number=number)}
        user = {"role": "user", "content": prompt}
        body = {"model": MODEL, "stream": stream, "messages": [system, user]}
        data = json.dumps(body, separators=(",", ":")).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        found += head.encode() + data + b"\0"
    return found
