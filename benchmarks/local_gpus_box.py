"""What `local_gpus.py` looks with: lemnos' command line, GPUs and who holds them, processes, and a load."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from local_gpus_models import make_dense, make_moe

ENGINE_VERSION = "0.26.0"
RATE = 2.0
"""Requests a second of the load."""


class Box:
    """The run: where its files are, what was found, and the command line of lemnos."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.out = Path(options.out)
        self.home = Path(options.home)
        self.venv = options.venv
        self.began = time.monotonic()
        self.rows: list[dict[str, Any]] = []
        os.environ["LEMNOS_HOME"] = str(self.home)
        self.models = {
            "dense": make_dense(self.home / "tiny-dense"),
            "moe": make_moe(self.home / "tiny-moe"),
        }

    def lemnos(self, *words: str) -> subprocess.CompletedProcess[str]:
        """One command, to its end; what it said is printed."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "lemnos", *words],
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.monotonic() - began
        self.say(f"$ lemnos {' '.join(words)}  -> {done.returncode}, {took:.1f} s")
        for line in (done.stderr if done.returncode else "").splitlines()[-8:]:
            self.say(f"    {line}")
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self.lemnos(*words, "--json").stdout or "null")

    def say(self, text: str) -> None:
        sys.stdout.write(f"[{time.monotonic() - self.began:6.1f}] {text}\n")
        sys.stdout.flush()

    def note(self, step: str, what: str, ok: bool | None, value: Any = "") -> None:
        """One row of the results. ``ok`` is None for a figure that is neither."""
        self.rows.append({"step": step, "what": what, "ok": ok, "value": value})
        sign = {True: "ok  ", False: "FAIL", None: "    "}[ok]
        self.say(f"{sign} {step}: {what}: {value}")
        self.save()

    def save(self) -> None:
        (self.out / "results.json").write_text(json.dumps(self.rows, indent=1))
        lines = ["| step | what | ok | found |", "|---|---|---|---|"]
        marks = {True: "yes", False: "**no**", None: ""}
        for row in self.rows:
            cells = (row["step"], row["what"], marks[row["ok"]], str(row["value"]))
            lines.append("| " + " | ".join(c.replace("|", "/") for c in cells) + " |")
        (self.out / "results.md").write_text("\n".join(lines) + "\n")

    def plan(self, name: str, model: str, seqs: int = 8, tensor: int = 1) -> str:
        """A deployment.yaml of the model on ``tensor`` GPUs; ``seqs`` tells revisions apart."""
        path = str(self.home / f"{name}-{model}-{seqs}.yaml")
        self.lemnos(
            *("plan", str(self.models[model]), "--cluster", f"{tensor}xH200"),
            *("--engine", "vllm", "--engine-version", ENGINE_VERSION),
            *("--tp", str(tensor), "--replicas", "1", "--context", "2048"),
            *("--max-num-seqs", str(seqs), "--enforce-eager", "--save", path),
        )
        return path

    def up(self, name: str, path: str, **settings: Any) -> Any:
        """``lemnos up``: (its exit code, seconds, what it said last)."""
        given = {
            "venv": self.venv,
            "served_name": None,
            "engine_args.load-format": "dummy",
            "engine_env.VLLM_USE_FLASHINFER_SAMPLER": "'0'",
        } | settings
        words = [f"--set={k}={v}" for k, v in given.items() if v is not None]
        began = time.monotonic()
        done = self.lemnos(
            "up", path, "--name", name, "--on", "local", *words, "--json"
        )
        if not done.returncode:
            (self.home / f"{name}.last").write_text(path)
        lines = done.stderr.strip().splitlines()
        first = next((n for n, line in enumerate(lines) if "error:" in line), 0)
        said = " ".join(lines[first:]) if done.returncode else ""
        return done.returncode, round(time.monotonic() - began, 1), said

    def last(self, name: str) -> str:
        """The file that the deployment was last brought up with."""
        return (self.home / f"{name}.last").read_text()

    def status(self, name: str) -> dict[str, Any]:
        import lemnos

        found = [each for each in lemnos.status() if each.name == name]
        return found[0].model_dump(mode="json") if found else {}

    def marked(self, name: str, job: str = "engine-") -> list[psutil.Process]:
        """The first processes of the deployment's jobs: those that lead their session."""
        return [
            p
            for p in processes()
            if f"|{name}|{job}" in environ(p).get("LEMNOS_JOB", "")
            and os.getsid(p.pid) == p.pid
        ]

    def engine(self, name: str) -> psutil.Process:
        """The one engine that there is; waits for another one to leave."""
        waited(lambda: len(self.marked(name)) == 1, 60)
        (found,) = self.marked(name)
        return found


def processes() -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with suppressed():
            if process.status() != psutil.STATUS_ZOMBIE:
                yield process


@contextmanager
def suppressed() -> Iterator[None]:
    try:
        yield
    except (psutil.Error, OSError):
        pass


def environ(process: psutil.Process) -> dict[str, str]:
    with suppressed():
        return process.environ()
    return {}


def holders() -> dict[str, int]:
    """MiB of each GPU that are in use, by its index."""
    return {index: int(used) for index, used in _smi("--query-gpu=index,memory.used")}


def gpu_processes() -> dict[int, str]:
    """The GPU that each process with memory there has, by pid (as far as the driver tells)."""
    numbers = {uuid: index for index, uuid in _smi("--query-gpu=index,uuid")}
    rows = _smi("--query-compute-apps=pid,gpu_uuid")
    return {int(pid): numbers.get(uuid, uuid) for pid, uuid in rows if pid.isdigit()}


def _smi(query: str) -> list[list[str]]:
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = ([c.strip() for c in line.split(",")] for line in done.stdout.splitlines())
    return [row for row in rows if len(row) == 2]


def empty() -> bool:
    """Whether no GPU holds more than a driver's own share."""
    return max(holders().values(), default=0) < 1500


def waited(true: Callable[[], bool], within_s: float) -> float | None:
    """Seconds until it was; None if it never was."""
    began = time.monotonic()
    while time.monotonic() - began < within_s:
        if true():
            return round(time.monotonic() - began, 1)
        time.sleep(0.2)
    return None


def ask(url: str, model: str, timeout: float = 60.0) -> dict[str, Any]:
    """One real completion. Raises what urllib does."""
    body = {
        "model": model,
        "max_tokens": 8,
        "messages": [{"role": "user", "content": "Where is the forge?"}],
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return dict(json.load(answer))


class Load:
    """RATE requests a second at a deployment, each in a thread of its own."""

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = url, model
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(64)
        self.answers: list[tuple[float, str]] = []
        self._clock = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._clock.join()
        self._pool.shutdown(wait=True)

    def _run(self) -> None:
        began = time.monotonic()
        for number in itertools.count():
            if self._over.wait(max(0.0, began + number / RATE - time.monotonic())):
                return
            self._pool.submit(self._one)

    def _one(self) -> None:
        at, wrong = time.monotonic(), ""
        try:
            answer = ask(self._url, self._model)
            if answer["usage"]["completion_tokens"] < 1:
                wrong = "no tokens"
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"[:100]
        self.answers.append((at, wrong))

    @property
    def failed(self) -> list[str]:
        return [wrong for _, wrong in self.answers if wrong]

    def gap_s(self) -> float:
        """The longest time between two requests that were answered."""
        good = sorted(at for at, wrong in self.answers if not wrong)
        pairs = zip(good, good[1:], strict=False)
        return round(max((b - a for a, b in pairs), default=0.0), 1)

    def told(self) -> str:
        kinds = sorted(set(self.failed))[:2]
        text = f"{len(self.answers)} requests, {len(self.failed)} failed, longest gap {self.gap_s()} s"
        return f"{text} ({'; '.join(kinds)})" if kinds else text


def title(process: psutil.Process) -> str:
    with suppressed():
        return " ".join(process.cmdline()).strip()[-80:]
    return ""


def lives(process: psutil.Process) -> bool:
    with suppressed():
        return process.status() != psutil.STATUS_ZOMBIE
    return False
