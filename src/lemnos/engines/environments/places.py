"""The environments that are here: listed, found, removed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil

from lemnos import leases
from lemnos.engines.environments import machine, work
from lemnos.errors import LemnosError, UsageError, near
from lemnos.spec.base import Value


class Environment(Value):
    """A whole environment."""

    name: str
    """``vllm-0.26.0``, ``dynamo-vllm-1.6.1``."""
    engine: str
    version: str
    variant: str
    requirement: str
    architecture: str
    glibc: str
    """The least that its wheels need."""
    cuda: int | None
    gpus: int
    """Of the machine that it was installed from."""
    host: str
    """That machine."""
    python: str
    packages: int
    resolution: str
    """sha256 of the packages and their versions."""
    bytes: int
    """On disk; files shared with uv's cache count too."""
    seconds: float
    """What installing took."""
    created: float
    """Epoch seconds."""
    path: str

    @property
    def program(self) -> str:
        """Its Python: what a plan's ``program`` is."""
        return f"{self.path}/bin/python"


def root() -> Path:
    """Where this machine's environments are."""
    return Path(machine.engines_dir())


def environments() -> list[Environment]:
    """Every whole environment of this machine's architecture, by name."""
    homes = sorted(p for p in root().glob("*") if not p.name.startswith("."))
    read = ((home, work.read_marker(home)) for home in homes)
    return [environment_of(found, home) for home, found in read if found]


def environment_of(marker: dict[str, Any], home: Path | str) -> Environment:
    """A marker as a value. Keys that a newer lemnos wrote are left out."""
    known = {key: marker[key] for key in Environment.model_fields if key in marker}
    return Environment.model_validate(known | {"path": str(home)})


def installed(engine: str, version: str, variant: str = "") -> Environment | None:
    """The environment of this engine and version, if it is here."""
    found = [e for e in environments() if (e.engine, e.version) == (engine, version)]
    return next((e for e in found if not variant or e.variant == variant), None)


def find(name: str) -> Environment:
    """The environment called ``name`` (``vllm==0.26.0`` will do too). Raises UsageError."""
    here = environments()
    wanted = name.replace("==", "-").replace("[", "-").replace("]", "")
    for each in here:
        if wanted in (each.name, f"{each.engine}-{each.version}"):
            return each
    names = [each.name for each in here]
    raise UsageError(
        f"no environment '{name}' is here",
        where=str(root()),
        fix=near(name, names) or "`lemnos engines ls` lists them",
    )


def remove(environment: Environment, users: Collection[str] = ()) -> None:
    """Remove it. Raises LemnosError while a deployment of ``users`` or a process runs from it."""
    home = Path(environment.path)
    if users:
        name = sorted(users)[0]
        raise LemnosError(
            f"{environment.name} serves {', '.join(sorted(users))}",
            fix=f"lemnos down {name}",
        )
    if pids := running_from(home):
        raise LemnosError(
            f"{environment.name} is in use by process {', '.join(map(str, pids))}",
            where=str(home),
            fix="stop it first",
        )
    with leases.lease(home.with_name(home.name + ".lease"), what="removing it"):
        work.clear(home)


def running_from(home: Path) -> list[int]:
    """Processes of this machine whose program or first words lie below ``home``."""
    below = str(home) + "/"
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(word.startswith(below) for word in words[:2]):
            found.append(process.pid)
    return found
