"""Runs one unit of lemnos on a Ray cluster: the entry point of its job.

lemnos ships this file with the job, it is never imported: Python's own library and Ray are all it needs. It has a
placement group with a bundle for each host, and in each bundle an actor that runs the host's processes below
it. What lemnos must know is printed, one JSON object a line after a word: for what the unit waits, where
it is, how it ended. When one process ends, all do.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import platform
import queue
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ray: Any = None
WORD = "LEMNOS "
ATTEMPT = "1"
PORTS = range(20_000, 32_000)
"""As ``lemnos.launchers.hosts``: below those that Linux gives to connections."""
LOOK_S = 0.5


class EndedError(Exception):
    """Why the unit ends, in words."""


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
        """A directory for each process, which removes it at its end, and the engine's key where they read it: one
        that is there already (a shared file system) is left as it is, one of ours has those that hold it beside it."""
        for name, text in scripts.items():
            directory = Path(tempfile.mkdtemp(prefix="lemnos-"))
            (directory / f"{name}.sh").write_text(text)
            (directory / f"late.{ATTEMPT}.sh").write_text(late)
            self._directories[name] = str(directory)
        old = os.umask(0o077)
        holders = Path(f"{key_file}.held")
        try:
            holders.parent.mkdir(parents=True, exist_ok=True)
            if holders.is_dir() or not Path(key_file).exists():
                holders.mkdir(exist_ok=True)
                for each in self._directories.values():
                    (holders / Path(each).name).touch()
                part = Path(f"{key_file}.{os.getpid()}.part")
                part.write_text(key)
                part.rename(key_file)
        finally:
            os.umask(old)

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


def main() -> int:
    """0 is never left with: what ends by itself has failed, and what was asked to end was stopped."""
    here = Path(__file__).parent
    unit = json.loads((here / "unit.json").read_text())
    key = (here / "engine.key").read_text()
    (here / "engine.key").unlink()
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    hosts: list[Any] = []
    try:
        unit["job"] = _join()
        signal.signal(signal.SIGTERM, lambda *_: told.set())  # instead of Ray's own
        group = _room(unit, told.is_set)
        hosts = _actors(unit, group)
        addresses = _start(unit, hosts, here, key)
        _watch(hosts, addresses, told.is_set)
    except EndedError as error:
        _say(ended=str(error))
    finally:
        _end(hosts, unit["grace_s"])
    return 1


def _join() -> str:
    """Be a driver of the cluster; the job's id. Its files stay here: workers are given what they run, not the
    package."""
    global ray
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    config["runtime_env"] = {}
    os.environ["RAY_JOB_CONFIG_JSON_ENV_VAR"] = json.dumps(config)
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise EndedError(
            f"{sys.executable} on Ray's head has no ray: name the one that has (ray.python)"
        ) from None
    try:
        ray.init(log_to_driver=False, logging_level="error")
    except Exception as error:  # Ray's own words, whatever they are: mixed versions
        raise EndedError(f"Ray takes no driver: {_line(error)}") from None
    return str(config.get("metadata", {}).get("job_submission_id", "lemnos"))


def _room(unit: dict[str, Any], is_told: Callable[[], bool]) -> Any:
    """The placement group: a bundle a host, so that what is one host's is on one node."""
    bundles, said = [unit["bundle"]] * unit["hosts"], ""
    strategy = "STRICT_PACK" if unit["hosts"] == 1 else "STRICT_SPREAD"
    group = ray.util.placement_group(bundles, strategy=strategy)
    while not group.wait(LOOK_S):
        if is_told():
            raise EndedError("was asked to end before there was room for it")
        if (now := _lacking(unit)) != said:
            _say(waits=now)
            said = now
    return group


def _lacking(unit: dict[str, Any]) -> str:
    """For what it waits, in words."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    need, hosts = unit["bundle"], unit["hosts"]
    able = sum(all(n.get(k, 0) >= v for k, v in need.items()) for n in nodes)
    what = ", ".join(f"{value:g} {name}" for name, value in need.items())
    count = "a host" if hosts == 1 else f"{hosts} hosts"
    why = "not enough of it is free" if able >= hosts else "that is too few"
    return f"{count} with {what}: {able} of the cluster's {len(nodes)} nodes have that, and {why}"


def _actors(unit: dict[str, Any], group: Any) -> list[Any]:
    """An actor in each bundle, which takes all of it."""
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    need = dict(unit["bundle"])
    options = {
        "num_cpus": need.pop("CPU", 0),
        "num_gpus": need.pop("GPU", 0),
        "resources": need,
        "max_concurrency": 8,
        "max_restarts": 0,
    }
    return [
        ray.remote(Host).options(
            **options,
            scheduling_strategy=strategies.PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=index
            ),
        ).remote()
        for index in range(unit["hosts"])
    ]  # fmt: skip


def _start(unit: dict[str, Any], hosts: list[Any], here: Path, key: str) -> list[str]:
    """The processes, on hosts that have the same of Ray and Python; the hosts' addresses. Raises EndedError."""
    about = _got([host.about.remote() for host in hosts])
    versions = {f"Ray {each['ray']}, Python {each['python']}" for each in about}
    if len(versions) > 1:
        raise EndedError(
            f"the hosts have mixed versions: {'; '.join(sorted(versions))}"
        )
    port = _got([hosts[0].free_ports.remote(unit["ports"])])[0]
    addresses = [each["host"] for each in about]
    late = [f"LEMNOS_HOST_{n}={address}" for n, address in enumerate(addresses)]
    late += [f"LEMNOS_PORT={port}", f"LEMNOS_INNER_PORT={port + 1}", ""]
    prepared = []
    for number, host in enumerate(hosts):
        names = [rank["name"] for rank in unit["ranks"] if rank["host"] == number]
        scripts = {name: (here / f"{name}.sh").read_text() for name in names}
        lines = "\n".join(late)
        prepared.append(host.prepare.remote(scripts, lines, unit["key_file"], key))
    _got(prepared)
    _got([host.start.remote(unit["job"]) for host in hosts])
    _say(hosts=addresses, port=port)
    return addresses


def _watch(hosts: list[Any], addresses: list[str], is_told: Callable[[], bool]) -> None:
    """Until one process ends, or its host goes away, or we are asked to end. Raises EndedError."""
    ends = {host.ended.remote(): number for number, host in enumerate(hosts)}
    while not is_told():
        done, _ = ray.wait(list(ends), timeout=LOOK_S)
        if not done:
            continue
        try:
            name, how = ray.get(done[0])
        except Exception as error:  # Ray has many for this
            lost = addresses[ends[done[0]]]
            raise EndedError(f"Ray lost {lost}: {_reason(error)}") from None
        raise EndedError(f"{name} {how}")
    raise EndedError("was asked to end")


def _end(hosts: list[Any], grace_s: float) -> None:
    """Ask all that still runs, and wait for it: as the driver leaves, its actors do, and their pipes close."""
    try:
        for host in hosts:
            host.stop.remote()
        waits = [host.over.remote() for host in hosts]
        until = time.monotonic() + grace_s
        while waits and time.monotonic() < until:
            _, waits = ray.wait(waits, num_returns=len(waits), timeout=LOOK_S)
    except Exception as error:  # a cluster that goes away: the pipes close all the same
        _print(_line(error))


def _got(refs: list[Any]) -> Any:
    """Raises EndedError where a host went away, or could not do it."""
    try:
        return ray.get(refs)
    except Exception as error:
        gone = "Actor" in type(error).__name__ or "Node" in type(error).__name__
        what = "a host went away" if gone else "a host could not do it"
        raise EndedError(f"{what}: {_line(error)}") from None


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


def _reason(error: BaseException) -> str:
    """Of a lost actor, without what names it in Ray's own terms."""
    said = _line(error, most=4000)
    found = re.findall(r"because (.*?)(?:\. |: The process|$)", said)
    return str(found[-1])[:300] if found else said[:300]


def _line(error: BaseException, most: int = 500) -> str:
    """What it says, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:most] or type(error).__name__


def _say(**facts: Any) -> None:
    _print(WORD + json.dumps(facts))


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
