"""A bed for processes on hosts that are namespaces of one machine."""

from __future__ import annotations

import dataclasses
from typing import Any

from lemnos.launchers.site import Site
from tests.contract.launchers.bed import Bed


@dataclasses.dataclass
class Alone(Bed):
    """Its processes carry a mark of its own: tests that run at the same time do not end each other's."""

    def site(self, name: str = "box", **spec_changes: Any) -> Site:
        site = super().site(name, **spec_changes)
        return dataclasses.replace(site, owner=self.word[:8])
