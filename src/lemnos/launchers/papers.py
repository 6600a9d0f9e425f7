"""What ``on: local`` keeps of units, on the supervisor's own machine: below each deployment's ``units/``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from lemnos.launchers.allocation import Allocation
from lemnos.launchers.site import Site
from lemnos.spec.base import Value
from lemnos.spec.place import Place
from lemnos.spec.unit import Unit

V = TypeVar("V", bound=Value)
RESERVED_S = 120.0
"""A unit that was placed and is not there after so long has given its GPUs up."""


class Placed(NamedTuple):
    """A unit of some deployment of ours, and where it was put."""

    deployment: str
    unit: str
    place: Place
    fresh: bool
    """It was placed a moment ago, and does not run yet."""


class Papers:
    """Those of one deployment; written by its supervisor alone."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._directory = Path(site.directory)
        self._units: dict[str, Unit] = {}

    def write(self, unit: str, name: str, text: str) -> None:
        """A file of the unit's."""
        path = f"{self._site.unit_directory(unit)}/{name}"
        self._site.transport.write(path, text.encode())

    def units(self) -> list[Unit]:
        """Those that were ever started, since the last sweep."""
        names = sorted(p.parent.name for p in self._directory.glob("units/*/unit.json"))
        return [unit for name in names if (unit := self.unit(name))]

    def unit(self, name: str) -> Unit | None:
        """As it was started last, by whichever process."""
        if name not in self._units:
            found = self._read(f"{self._site.unit_directory(name)}/unit.json", Unit)
            if found is None:
                return None
            self._units[name] = found
        return self._units[name]

    def keep(self, unit: Unit) -> None:
        """It is about to be started."""
        self.write(unit.name, "unit.json", unit.model_dump_json())
        self._site.transport.remove(self._given_up(unit.name))
        self._units[unit.name] = unit

    def reserve(self, name: str, place: Place) -> None:
        """It will be started there."""
        self._site.transport.remove(self._started(name))
        self.write(name, "place.json", place.model_dump_json())

    def started(self, name: str) -> None:
        """From now on it has what it was given for as long as it runs."""
        self.write(name, "started", "")

    def placed(self, but: str) -> Iterator[Placed]:
        """Where units of all deployments of this state directory were put, apart from ``but`` of this one."""
        for path in self._directory.parent.glob("*/units/*/place.json"):
            deployment, unit = path.parts[-4], path.parts[-2]
            if (deployment, unit) == (self._site.deployment, but):
                continue
            try:
                age_s = time.time() - path.stat().st_mtime
            except OSError:
                continue
            fresh = age_s < RESERVED_S and not path.with_name("started").exists()
            if place := self._read(str(path), Place):
                yield Placed(deployment, unit, place, fresh)

    def give_up(self, name: str, hosts: set[str]) -> None:
        """What runs of the unit on these hosts is not counted any more, and is ended when they answer."""
        every = sorted({*hosts, *self.given_up(name)})
        self.write(name, "given_up.json", json.dumps(every))

    def given_up(self, name: str) -> frozenset[str]:
        """The hosts that its last start was given up on."""
        data = self._site.transport.read(self._given_up(name))
        return frozenset(json.loads(data)) if data else frozenset()

    def allocation(self) -> Allocation | None:
        """That units were placed in last."""
        return self._read(f"{self._site.directory}/units/allocation.json", Allocation)

    def keep_allocation(self, allocation: Allocation) -> None:
        """For a supervisor that is started from another shell."""
        path = f"{self._site.directory}/units/allocation.json"
        self._site.transport.write(path, allocation.model_dump_json().encode())

    def clear(self) -> None:
        """All of it goes."""
        self._site.transport.remove(f"{self._site.directory}/units")
        self._units.clear()

    def _started(self, name: str) -> str:
        return f"{self._site.unit_directory(name)}/started"

    def _given_up(self, name: str) -> str:
        return f"{self._site.unit_directory(name)}/given_up.json"

    def _read(self, path: str, kind: type[V]) -> V | None:
        data = self._site.transport.read(path)
        try:
            return kind.model_validate_json(data) if data else None
        except ValidationError:  # another version's
            return None
