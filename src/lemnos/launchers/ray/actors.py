"""The actors in which a unit's processes are run, on each of its hosts. Shipped as ``driver.py`` is, which sends
them to Ray's workers as they are: Python's own library and Ray are all they need.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import queue
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ATTEMPT = "1"
PORTS = range(20_000, 32_000)
"""As ``lemnos.launchers.hosts``: below those that Linux gives to connections."""


class Host:
    """What runs the processes of one host; it lives in an actor of the host's bundle."""

    def __init__(self) -> None:
        self._directories: dict[str, str] = {}
        self._held: list[int] = []
        self._ends: queue.Queue[tuple[str, str]] = queue.Queue()
        self._over = threading.Semaphore(0)

    def about(self) -> dict[str, str]:
        """Its address and its versions."""
        own = importlib.import_module("ray")
        return {
            "host": own.util.get_node_ip_address(),
            "python": platform.python_version(),
            "ray": own.__version__,
        }

    def free_ports(self, count: int) -> int:
        """The first of ``count`` ports in a row that nobody has."""
        firsts = list(range(PORTS.start, PORTS.stop - count, count))
        random.SystemRandom().shuffle(firsts)
        for first in firsts:
            if all(_is_free(port) for port in range(first, first + count)):
                return first
        raise RuntimeError(f"no {count} free ports in a row were found")

    def prepare(
        self, scripts: dict[str, str], late: str, key_file: str, key: str
    ) -> None:
        """A directory of Ray's session for each process, which removes it at its end, and the engine's key where they
        read it."""
        node = importlib.import_module("ray")._private.worker._global_node
        session = node.get_session_dir_path()
        for name, text in scripts.items():
            directory = Path(tempfile.mkdtemp(prefix="lemnos-", dir=session))
            (directory / f"{name}.sh").write_text(text)
            (directory / f"late.{ATTEMPT}.sh").write_text(late)
            self._directories[name] = str(directory)
        holders = [Path(each).name for each in self._directories.values()]
        _hold(key_file, key, holders)

    def start(self, job: str) -> None:
        """The processes, whose scripts are there; logs in Ray's session begin with the job's id. They are no children of Ray's worker, which kills its own
        when it ends: a pipe tells them that, and gives them the time to end in order."""
        node = importlib.import_module("ray")._private.worker._global_node
        env = os.environ | {"LEMNOS_LOGS": f"{node.get_logs_dir_path()}/{job}"}
        env.pop("OMP_NUM_THREADS", None)  # Ray's own, for its tasks: 1
        for name, directory in self._directories.items():
            tells, told = os.pipe()
            held, ours = os.pipe()
            self._held.append(ours)
            subprocess.run(
                ["setsid", "-f", "bash", f"{directory}/{name}.sh", ATTEMPT, "held"],
                stdin=held, stdout=told, stderr=subprocess.DEVNULL,
                env=env | {"LEMNOS_AT": directory}, check=True,
            )  # fmt: skip
            os.close(told)
            os.close(held)
            threading.Thread(target=self._await, args=(name, tells)).start()

    def ended(self) -> tuple[str, str]:
        """The first process that ended, and how; waits for it."""
        return self._ends.get()

    def stop(self) -> None:
        """Ask all to end."""
        for directory in self._directories.values():
            with contextlib.suppress(FileNotFoundError):  # that one has ended
                Path(directory, f"stop.{ATTEMPT}").touch()

    def over(self) -> None:
        """Waits until all have ended, and nothing of them is left."""
        for _ in self._held:
            self._over.acquire()

    def _await(self, name: str, tells: int) -> None:
        with os.fdopen(tells, encoding="utf-8") as pipe:
            said = pipe.read().strip()
        self._ends.put((name, _how(said)))
        self._over.release()


class Inside:
    """What becomes vLLM's API, whose ranks are Ray's actors in the placement group that this one is in. (vLLM takes
    the group of the actor that it runs in, and no other.) It runs on the main thread: vLLM handles signals."""

    def prepare(self, script: str, late: str, log: str, key_file: str, key: str) -> int:
        """What the script says becomes our environment; our output goes to the log. Our process' number."""
        own = f"{os.getpid()}"
        held = _hold(key_file, key, [own])
        done = subprocess.run(
            ["sh", "-c", f"{late}\n{script}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if held:
            Path(f"{key_file}.held", own).unlink()
            with contextlib.suppress(OSError):  # another unit's process needs it
                Path(f"{key_file}.held").rmdir()
                Path(key_file).unlink()
        if done.returncode:
            raise RuntimeError(f"its script failed: {done.stderr.strip()[-300:]}")
        words, env = json.loads(done.stdout)
        os.environ.update(env)
        runtime = importlib.import_module("ray").get_runtime_context()
        # vLLM's core is a process of its own, which would start another Ray.
        os.environ["RAY_ADDRESS"] = runtime.gcs_address
        os.environ.pop("OMP_NUM_THREADS", None)
        sys.argv = ["vllm", *words]
        node = importlib.import_module("ray")._private.worker._global_node
        path = Path(node.get_logs_dir_path(), log)
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(out, 1)
        os.dup2(out, 2)
        return os.getpid()

    def serve(self) -> str:
        """Until it ends; how, in words."""
        try:
            importlib.import_module("vllm.entrypoints.cli.main").main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(bool(error.code))
            return _how(str(code))
        return _how("0")


class Eye:
    """Beside it, since an actor that is busy hears nothing."""

    def about(self) -> dict[str, str]:
        return Host().about()

    def free_ports(self, count: int) -> int:
        return Host().free_ports(count)

    def ask(self, pid: int) -> None:
        """It is to end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _hold(key_file: str, key: str, names: list[str]) -> bool:
    """The key where the engine reads it. One that is there already (a shared file system) is left as it is; one of
    ours has beside it those that hold it, and the last of them removes it. Whether it is one of ours."""
    holders = Path(f"{key_file}.held")
    old = os.umask(0o077)
    try:
        holders.parent.mkdir(parents=True, exist_ok=True)
        if Path(key_file).exists() and not holders.is_dir():
            return False
        holders.mkdir(exist_ok=True)
        for name in names:
            (holders / name).touch()
        part = Path(f"{key_file}.{os.getpid()}.part")
        part.write_text(key)
        part.rename(key_file)
    finally:
        os.umask(old)
    return True


def _how(said: str) -> str:
    if not said.isdecimal():
        return "ended (nobody saw how)"
    code = int(said)
    if code <= 128:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(code - 128).name}"
    except ValueError:
        return f"ended with exit code {code}"


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
