"""What ``systemctl show`` says, as a unit's status and in words."""

from __future__ import annotations

from typing import Any

import pytest

from lemnos.launchers.systemd.parse import Service, ended, names_of, services_of
from lemnos.launchers.systemd.statuses import status_of
from lemnos.spec.unit import Unit, UnitStatus
from tests.unit.launchers.systemd import units

# From systemd 252: a service that runs, one that was given up, one without a file.
SHOWN = """\
Result=success
NRestarts=2
MainPID=415
ExecMainStartTimestampMonotonic=5146014327
ExecMainCode=0
ExecMainStatus=0
Id=lemnos-chat-engine-0.service
Description=lemnos chat/engine-0 [0a1b2c]
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled

Result=exit-code
NRestarts=2
MainPID=0
ExecMainStartTimestampMonotonic=5146014327
ExecMainCode=1
ExecMainStatus=3
Id=lemnos-chat-engine-1.service
Description=lemnos chat/engine-1 [0a1b2c]
LoadState=loaded
ActiveState=failed
SubState=failed
UnitFileState=enabled

Result=success
NRestarts=0
MainPID=0
ExecMainCode=0
ExecMainStatus=0
Id=lemnos-chat-engine-9.service
Description=lemnos-chat-engine-9.service
LoadState=not-found
ActiveState=inactive
SubState=dead
"""


def service(name: str = "lemnos-chat-engine-0.service", **told: Any) -> Service:
    base: dict[str, Any] = {
        "description": "",
        "active": "failed",
        "sub": "",
        "started": True,
    }
    return Service.model_validate({"name": name} | base | told)


RUNS = service(active="active", sub="running", pid=7)
FAILED = service(result="exit-code", code=1, status=3)


def test_what_systemctl_shows_is_read() -> None:
    found = services_of(SHOWN)
    assert list(found) == [
        "lemnos-chat-engine-0.service",
        "lemnos-chat-engine-1.service",
    ]
    first, second = found.values()
    assert (first.alive, first.pid, first.restarts) == (True, 415, 2)
    assert not second.alive
    assert (
        ended(second) == "ended with exit code 3, and systemd gave it up after 2 starts"
    )


def test_names_of_unit_files() -> None:
    assert names_of("a.service enabled enabled\nb.service disabled enabled\n\n") == [
        "a.service",
        "b.service",
    ]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"result": "exit-code", "code": 1, "status": 1}, "ended with exit code 1"),
        ({"result": "success", "code": 1, "status": 0}, "ended with exit code 0"),
        ({"result": "success", "code": 2, "status": 15}, "was stopped"),
        ({"result": "signal", "code": 2, "status": 15}, "was stopped"),
        ({"result": "signal", "code": 2, "status": 9}, "was killed by SIGKILL"),
        ({"result": "signal", "code": 2, "status": 99}, "was killed by signal 99"),
        ({"result": "core-dump", "code": 3, "status": 11}, "crashed (SIGSEGV)"),
        ({"result": "oom-kill", "code": 2, "status": 9}, "memory ran out"),
        ({"result": "timeout", "code": 2, "status": 15}, "did not answer in time"),
        ({"result": "exit-code", "code": 1, "status": 226}, "hardening: false"),
        ({"result": "exit-code", "code": 1, "status": 127}, "program was not found"),
        (
            {"result": "start-limit-hit", "code": 1, "status": 3, "restarts": 3},
            "exit code 3, and systemd gave it up after 3",
        ),
        (
            {"result": "success", "started": False},
            "was stopped, or ended without an error",
        ),
        ({"result": "resources", "started": False}, "could not start it"),
    ],
)
def test_how_it_ended_in_words(told: dict[str, Any], words: str) -> None:
    assert words in ended(service(**told))


@pytest.mark.parametrize(
    "told",
    [
        {"active": "activating", "sub": "start-post"},
        {"active": "activating", "sub": "auto-restart"},
        {"active": "deactivating", "sub": "stop-sigterm"},
        {"active": "inactive", "pending": True, "started": False},
    ],
)
def test_what_will_run_or_still_runs_is_alive(told: dict[str, Any]) -> None:
    assert service(**told).alive and not ended(service(**told))


def status(unit: Unit, *services: Service, **more: Any) -> UnitStatus:
    by_name = {each.name: each for each in services}
    return status_of(unit, by_name, url="http://127.0.0.1:4000", **more)


def test_a_unit_that_runs() -> None:
    found = status(units.engine(), RUNS)
    assert found.state == "running" and not found.broken
    assert (found.url, found.pids, found.id) == (
        "http://127.0.0.1:4000",
        (7,),
        RUNS.name,
    )


def test_pids_of_other_machines_are_not_told() -> None:
    assert status(units.engine(), RUNS, own_pids=False).pids == ()


def test_restarts_of_all_parts_are_counted() -> None:
    parts = [
        service(f"lemnos-chat-engine-0{rank}.service", active="active", restarts=n)
        for rank, n in (("", 1), (".1", 0), (".2", 2))
    ]
    assert status(units.engine(units.TWO), *parts).starts == 3


def test_a_part_that_ended_is_told_while_others_run() -> None:
    head = FAILED.model_copy(update={"name": "lemnos-chat-engine-0.1.service"})
    worker = RUNS.model_copy(update={"name": "lemnos-chat-engine-0.2.service"})
    found = status(units.engine(units.TWO), RUNS, head, worker)
    assert found.state == "running"
    assert found.broken == "engine-0.1 (ray-head) ended with exit code 3"


def test_a_host_that_does_not_answer_is_no_end() -> None:
    head = RUNS.model_copy(update={"name": "lemnos-chat-engine-0.1.service"})
    found = status(units.engine(units.TWO), RUNS, head, silent={"gpu2": "refused"})
    assert found.state == "running" and found.broken == "gpu2 does not answer: refused"
    found = status(units.engine(units.TWO), silent={"gpu1": "x", "gpu2": "x"})
    assert found.state == "running"


def test_all_parts_ended_tells_the_one_that_was_not_stopped() -> None:
    stopped = service(active="inactive", code=2, status=15)
    head = FAILED.model_copy(update={"name": "lemnos-chat-engine-0.1.service"})
    found = status(units.engine(units.TWO), stopped, head)
    assert (found.state, found.why) == ("ended", "ended with exit code 3")


def test_what_waits_for_its_start_is_queued() -> None:
    found = status(
        units.engine(), service(active="inactive", pending=True, started=False)
    )
    assert found.state == "queued" and found.why


def test_a_unit_that_cannot_be_read_is_alive_or_not_at_least() -> None:
    found = status_of(None, {RUNS.name: RUNS})
    assert found.state == "running" and "another version" in found.broken
    assert status_of(None, {FAILED.name: FAILED}).why == "ended with exit code 3"


def test_a_thousand_replicas_are_told_apart() -> None:
    blocks = [
        SHOWN.split("\n\n")[0].replace("engine-0", f"engine-{n}") for n in range(1000)
    ]
    unit = units.engine()
    found = services_of("\n\n".join(blocks))
    for name, each in found.items():
        number = int(name.partition("engine-")[2].partition(".")[0])
        job = unit.jobs[0].model_copy(update={"index": number})
        assert status(unit.model_copy(update={"jobs": (job,)}), each).alive
    assert len(found) == 1000
