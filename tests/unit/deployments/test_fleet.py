"""What is seen of units while their launcher does not answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lemnos.deployments import fleet as module
from lemnos.deployments.files import Files
from lemnos.deployments.fleet import Fleet
from lemnos.deployments.prepare import plan_without_pulling
from lemnos.deployments.state import JobState, State
from lemnos.engines.base import JobFiles
from lemnos.errors import LemnosError
from lemnos.records.store import Store
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.place import Place
from lemnos.spec.unit import Unit, UnitStatus

URL = "http://127.0.0.1:5366"


class Room:
    """A launcher that can be silent."""

    name = "room"
    restarts, queues = False, True

    def __init__(self) -> None:
        self.units: dict[str, UnitStatus] = {}
        self.silent = False

    def place(self, plan: Any, name: str, *, dry: bool = False) -> Place:
        return Place(port=1)

    def files(self, name: str) -> JobFiles:
        return JobFiles(log="/l", key_file="/k")

    def submit(self, unit: Unit) -> None:
        self.units[unit.name] = UnitStatus(state="running")

    def status(self) -> dict[str, UnitStatus]:
        if self.silent:
            raise LemnosError("does not answer")
        return self.units

    def logs(self, name: str) -> Sequence[Any]:
        return ()


@pytest.mark.usefixtures("home")
def test_what_was_just_submitted_has_not_ended_where_nobody_can_be_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room, store = Room(), Store()
    monkeypatch.setattr(module, "launcher_of", lambda _: room)
    monkeypatch.setattr(module, "gateway_launcher", lambda _: room)
    plan = plan_without_pulling(DeploymentSpec.model_validate({"model": "smollm2"}))
    store.add_revision(plan, URL)
    fleet = Fleet(plan.name, store, Files.of(plan.name), URL)
    state = State(jobs=(JobState(name="engine-0", revision=1),), trial=1)
    fleet.look(state)
    assert fleet.seen == {}
    fleet.start("engine-0", 1, "")
    room.silent = True
    fleet.look(state)
    assert fleet.seen["engine-0"].alive
    assert fleet.silence == "room cannot be asked: does not answer"
    room.silent = False
    fleet.look(state)
    assert fleet.silence == ""
    assert fleet.seen["engine-0"].state == "running"
    room.units.clear()
    fleet.look(state)
    assert fleet.seen == {}
