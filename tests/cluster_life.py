"""lemnos on a host of a testbed, as its user runs it there, and requests sent meanwhile."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOAD = """
import json, os, sys, threading, time, urllib.request
url, model, every, stop, key = sys.argv[1], sys.argv[2], float(sys.argv[3]), *sys.argv[4:6]
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
told, threads = [], []
def ask():
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1}).encode()
    request = urllib.request.Request(url + "/completions", body)
    request.add_header("content-type", "application/json")
    if key:
        request.add_header("authorization", "Bearer " + key)
    try:
        with direct.open(request, timeout=60) as answer:
            told.append((answer.status, answer.headers["x-lemnos-target"]))
    except Exception as error:
        told.append((getattr(error, "code", 0), str(error)))
while not os.path.exists(stop):
    threads.append(threading.Thread(target=ask))
    threads[-1].start()
    time.sleep(every)
for thread in threads:
    thread.join()
print(json.dumps(told))
"""


@dataclass
class Life:
    """``words`` before each command put it on the host; ``home`` is lemnos' own there."""

    words: Sequence[str]
    home: Path
    models: Path
    seen_here: Path | None = None
    """``home`` as this process sees it, where that is another path."""
    first: Sequence[str] = ()
    """Words of every ``up``."""

    @property
    def own(self) -> Path:
        return self.seen_here or self.home

    def run(self, *words: str, code: int = 0, within_s: float = 180.0) -> str:
        """``lemnos WORDS`` to its end; it must leave with ``code``, and never with a traceback."""
        done = subprocess.run(
            [*self.words, *self._env(), sys.executable, "-m", "lemnos", *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=within_s,
            cwd=self.own,
            check=False,
        )
        assert done.returncode == code, done.stderr + done.stdout
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout if code == 0 else done.stderr

    def report(self, *words: str) -> Any:
        """What ``lemnos WORDS --json`` prints."""
        return json.loads(self.run(*words, "--json"))

    def up(self, *words: str) -> Any:
        """The embedded model, small."""
        return self.report("up", "smollm2", "--context", "512", *self.first, *words)

    @contextlib.contextmanager
    def load(
        self, url: str, every_s: float = 0.5, key: str = ""
    ) -> Iterator[list[tuple[int, str]]]:
        """One-token requests while the body runs; afterwards (status, who answered) of each."""
        told: list[tuple[int, str]] = []
        (self.own / "stop").unlink(missing_ok=True)
        child = subprocess.Popen(
            [
                *(*self.words, sys.executable, "-I", "-S", "-c", LOAD),
                *(
                    url,
                    "smollm2-135m-instruct",
                    str(every_s),
                    str(self.home / "stop"),
                    key,
                ),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield told
        finally:
            (self.own / "stop").touch()
            out, _ = child.communicate(timeout=120)
            told += [(status, who) for status, who in json.loads(out)]

    def _env(self) -> list[str]:
        return [
            "env",
            f"LEMNOS_HOME={self.home}",
            f"LEMNOS_MODELS={self.models}",
            "NO_COLOR=1",
        ]


def failed(told: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Those that were not answered."""
    return [each for each in told if each[0] != 200]


def files_left(home: Path) -> list[str]:
    """What there is beside databases, logs and the directory's own id."""
    kept = {"lemnos.db", "ledger.db", "verified.json", "id"}
    state = home / "state"
    return [
        str(path.relative_to(state))
        for path in state.rglob("*")
        if path.is_file() and path.name not in kept and path.suffix != ".log"
    ]
