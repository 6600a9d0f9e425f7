"""``work.py`` on another host: its text and what it imports go through standard input, and are
run by a Python that uv finds there."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
from importlib import resources
from typing import Any

from lemnos.engines.environments.work import Order, Say
from lemnos.errors import LemnosError
from lemnos.transport.ssh import Ssh

MODULES = (
    ("lemnos.errors", "errors.py"),
    ("lemnos.leases", "leases.py"),
    ("lemnos.engines.environments.work", "engines/environments/work.py"),
)
# Modules out of texts: packages first, so that `from lemnos import leases` finds them.
_LOADER = """
import json, sys, types
asked = json.loads(sys.stdin.buffer.read(int(sys.argv[1])))
for name, text in asked["modules"]:
    parts = name.split(".")
    for end in range(1, len(parts)):
        package = ".".join(parts[:end])
        if package not in sys.modules:
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = []
    module = sys.modules[name] = types.ModuleType(name)
    setattr(sys.modules[name.rpartition(".")[0]], parts[-1], module)
    exec(compile(text, name, "exec"), module.__dict__)
module.main(asked["order"])
"""
ANSWER = "lemnos-answer "


class Shipping:
    """Installations on other hosts. Used by several threads; ``end`` by whoever is interrupted."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def install(self, host: Ssh, python: str, order: Order, say: Say) -> dict[str, Any]:
        """As ``work.install``, on ``host``. Ends there when this process does. Raises LemnosError."""
        package = resources.files("lemnos")
        modules = [(name, package.joinpath(path).read_text()) for name, path in MODULES]
        asked = json.dumps({"modules": modules, "order": order}).encode()
        if self._ended:
            raise LemnosError("interrupted", where=host.host)
        words = shlex.join([python, "-I", "-c", _LOADER])
        process = host.start(f"exec {words} {len(asked)}")
        self._running.add(process)
        try:
            return _answer(process, host, asked, say)
        finally:
            self._running.discard(process)
            _close(process)

    def end(self) -> None:
        """Close every installation's input: it removes what it made, and ends."""
        self._ended = True
        for process in list(self._running):
            assert process.stdin
            with contextlib.suppress(OSError, ValueError):
                process.stdin.close()


def _answer(
    process: subprocess.Popen[bytes], host: Ssh, asked: bytes, say: Say
) -> dict[str, Any]:
    assert process.stdin and process.stdout and process.stderr
    with contextlib.suppress(BrokenPipeError):  # what follows says why
        process.stdin.write(asked)
        process.stdin.flush()
    for line in process.stdout:
        if not line.startswith(ANSWER.encode()):
            continue
        answer = json.loads(line[len(ANSWER) :])
        if "note" in answer:
            say(f"{host.host}: {answer['note']}")
        elif "error" in answer:
            raise _told(answer["error"], host)
        else:
            done: dict[str, Any] = answer["done"]
            return done
    words = process.stderr.read().decode(errors="replace")
    raise host.problem(process.wait(), words)


def _close(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin and process.stdout and process.stderr
    with contextlib.suppress(OSError):
        process.stdin.close()
    process.wait()
    process.stdout.close()
    process.stderr.close()


def _told(error: dict[str, str], host: Ssh) -> LemnosError:
    where = f"{host.host}: {error['where']}" if error["where"] else host.host
    return LemnosError(error["what"], where=where, fix=error["fix"])
