"""What ``systemctl show`` says of services, and in words how one ended. Pure."""

from __future__ import annotations

import functools
import signal
from importlib import resources

import yaml

from lemnos.spec.base import Value

PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,Result,MainPID,ExecMainCode,ExecMainStatus,"
    "ExecMainStartTimestampMonotonic,NRestarts,UnitFileState,Description,Job"
)
EXITED, KILLED, DUMPED = 1, 2, 3  # CLD_* of sigaction(2)
ALIVE = ("active", "activating", "deactivating", "reloading", "refreshing")


class Service(Value):
    """A service as its manager knows it."""

    name: str
    description: str
    active: str
    sub: str
    result: str = "success"
    pid: int = 0
    code: int = 0
    status: int = 0
    restarts: int = 0
    started: bool = False
    """It ran, since the machine was started."""
    pending: bool = False
    """A job of systemd's will start (or stop) it."""

    @property
    def alive(self) -> bool:
        """It runs, is being started again, or will be started."""
        return self.active in ALIVE or self.pending


def services_of(text: str) -> dict[str, Service]:
    """``systemctl show``'s blocks by name; without those that there is no file of."""
    found = {}
    for block in text.split("\n\n"):
        pairs = (line.partition("=") for line in block.splitlines())
        told = {key: value for key, _, value in pairs}
        name = told.get("Id", "")
        gone = told.get("LoadState") == "not-found"
        if not name or (gone and told.get("ActiveState") not in ALIVE):
            continue
        found[name] = Service(
            name=name,
            description=told.get("Description", ""),
            active=told.get("ActiveState", ""),
            sub=told.get("SubState", ""),
            result=told.get("Result") or "success",
            pid=_number(told.get("MainPID")),
            code=_number(told.get("ExecMainCode")),
            status=_number(told.get("ExecMainStatus")),
            restarts=_number(told.get("NRestarts")),
            started=_number(told.get("ExecMainStartTimestampMonotonic")) > 0,
            pending=_number(told.get("Job")) > 0,
        )
    return found


def names_of(text: str) -> list[str]:
    """The first word of each line of ``systemctl list-unit-files``."""
    return [line.split()[0] for line in text.splitlines() if line.split()]


def ended(service: Service) -> str:
    """How it ended, in words; empty while it is alive."""
    if service.alive:
        return ""
    if not service.started:
        return _UNSTARTED.get(service.result, "was stopped, or ended without an error")
    how = _how(service)
    if service.active == "failed" and service.restarts:
        return f"{how}, and systemd gave it up after {service.restarts} starts"
    return how


_UNSTARTED = {
    "resources": "systemd could not start it (its log directory, or resources)",
    "start-limit-hit": "failed so often in a row that systemd gave it up",
    "timeout": "did not get ready to start in time",
    "exit-code": "what it waits for did not come",
}


def _how(service: Service) -> str:
    if service.result == "oom-kill":
        return "was killed because memory ran out (oom-kill)"
    if service.result == "timeout":
        return (
            "did not answer in time after its start, or did not end in time (timeout)"
        )
    if service.result == "watchdog":
        return "did not tell its watchdog in time"
    if service.code == KILLED:
        if service.result == "success" or service.status == signal.SIGTERM:
            return "was stopped"  # also while what waits for its port still ran
        return f"was killed by {_signal(service.status)}"
    if service.code == DUMPED:
        return f"crashed ({_signal(service.status)})"
    if service.code != EXITED:
        return f"ended ({service.result})"
    meaning = _codes().get(service.status)
    return f"ended with exit code {service.status}" + (
        f": {meaning}" if meaning else ""
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


@functools.cache
def _codes() -> dict[int, str]:
    text = resources.files(__package__).joinpath("words.yaml").read_text()
    codes: dict[int, str] = yaml.safe_load(text)["codes"]
    return codes
