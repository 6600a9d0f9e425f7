"""Runs one unit of lemnos on a Ray cluster: the entry point of its job.

lemnos ships this file and ``actors.py`` with the job: Python's own library and Ray are all they need. It has a
placement group with a bundle for each host, and in each bundle an actor that runs the host's processes below
it. What lemnos must know is printed, one JSON object a line after a word: for what the unit waits, where
it is, how it ended. When one process ends, all do.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ray: Any = None
actors: Any = None
WORD = "LEMNOS "
LOOK_S = 0.5


class EndedError(Exception):
    """Why the unit ends, in words."""


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
        if unit["inside"]:
            _inside(unit, group, here, key, told.is_set)
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
    global actors, ray
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
        actors = importlib.import_module(
            "actors"
        )  # beside us; workers have no such file
        ray.cloudpickle.register_pickle_by_value(actors)
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


def _inside(
    unit: dict[str, Any], found: Any, here: Path, key: str, is_told: Callable[[], bool]
) -> None:
    """vLLM in a group whose bundles have one GPU each, as it wants them, host by host in the order of its ranks: on
    the nodes that ``found`` has room on. Raises EndedError at its end."""
    addresses = _addresses(found)
    group = _divided(unit, found, addresses, is_told)
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    options = {
        "num_cpus": 0,
        "scheduling_strategy": strategies.PlacementGroupSchedulingStrategy(
            placement_group=group,
            placement_group_bundle_index=0,
            placement_group_capture_child_tasks=True,
        ),
    }
    eye = ray.remote(actors.Eye).options(**options).remote()
    engine = ray.remote(actors.Inside).options(**options).remote()
    name = unit["ranks"][0]["name"]
    _, port = _got([eye.about.remote(), eye.free_ports.remote(unit["ports"])])
    script = (here / f"{name}.sh").read_text()
    log = f"{unit['job']}-{unit['ranks'][0]['log'].rpartition('/')[2]}"
    lines = _late(addresses, port)
    pid = _got([engine.prepare.remote(script, lines, log, unit["key_file"], key)])[0]
    served = engine.serve.remote()
    _say(hosts=addresses, port=port)
    try:
        while not is_told():
            if ray.wait([served], timeout=LOOK_S)[0]:
                raise EndedError(f"{name} {_got([served])[0]}")
    finally:
        with contextlib.suppress(Exception):  # its host is gone, perhaps
            ray.get(eye.ask.remote(pid), timeout=LOOK_S)
            ray.wait([served], timeout=unit["grace_s"])
    raise EndedError("was asked to end")


def _addresses(group: Any) -> list[str]:
    """Of the nodes of its bundles, in their order."""
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    table = ray.util.placement_group_table(group)["bundles_to_node_id"]
    return [nodes[table[number]] for number in sorted(table)]


def _divided(
    unit: dict[str, Any], found: Any, addresses: list[str], is_told: Callable[[], bool]
) -> Any:
    """The same room on the same nodes, in bundles of one GPU."""
    need = dict(unit["bundle"])
    gpus = int(need.pop("GPU", 1))
    share = {name: value / gpus for name, value in need.items()}
    share["CPU"] = max(1, int(need.get("CPU", gpus) // gpus))
    bundles = [
        {"GPU": 1, **share, f"node:{address}": 0.001}
        for address in addresses
        for _ in range(gpus)
    ]
    ray.util.remove_placement_group(found)
    group = ray.util.placement_group(bundles, strategy="PACK")
    while not group.wait(LOOK_S):
        if is_told():
            raise EndedError("was asked to end before there was room for it")
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
        ray.remote(actors.Host).options(
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
    lines = _late(addresses, port)
    prepared = []
    for number, host in enumerate(hosts):
        names = [rank["name"] for rank in unit["ranks"] if rank["host"] == number]
        scripts = {name: (here / f"{name}.sh").read_text() for name in names}
        prepared.append(host.prepare.remote(scripts, lines, unit["key_file"], key))
    _got(prepared)
    _got([host.start.remote(unit["job"]) for host in hosts])
    _say(hosts=addresses, port=port)
    return addresses


def _late(addresses: list[str], port: int) -> str:
    """What scripts could not know before."""
    late = [f"LEMNOS_HOST_{n}={address}" for n, address in enumerate(addresses)]
    return "\n".join(
        [*late, f"LEMNOS_PORT={port}", f"LEMNOS_INNER_PORT={port + 1}", ""]
    )


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
