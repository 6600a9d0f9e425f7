"""A bed whose launcher talks to a real PBS, from its login node, as ada."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from lemnos.launchers.base import Launcher
from lemnos.launchers.site import Site
from lemnos.transport.base import Done
from tests.contract.launchers.bed import Bed
from tests.contract.launchers.systemd_bed import Inside
from tests.testbeds.hosts import ADA
from tests.testbeds.pbs import Pbs


@dataclass
class Login(Inside):
    """The login node; ``limit_s``: nothing that is asked there takes longer."""

    where: str = ""
    limit_s: float = 60.0

    def run(
        self, *argv: str, stdin: bytes | None = None, timeout_s: float = 60.0
    ) -> Done:
        return super().run(*argv, stdin=stdin, timeout_s=min(timeout_s, self.limit_s))


@dataclass
class PbsBed(Bed):
    """``pbs``: nodes n1, n2, n3, which only hosts of the bed can reach."""

    pbs: Pbs = field(kw_only=True)
    transport: Login = field(kw_only=True)

    def site(self, name: str = "box", **spec_changes: Any) -> Site:
        """The deployment's directory is ada's."""
        made = super().site(name, **spec_changes)
        for path in (self.directory, *self.directory.rglob("*")):
            os.chown(path, ADA, ADA, follow_symlinks=False)
        return made

    def job(self, launcher: Launcher, name: str = "engine-0") -> dict[str, Any]:
        """The unit's job, as ``qstat -f`` has it."""
        job: dict[str, Any] = self.pbs.jobs()[launcher.status()[name].id]
        return job

    def get(self, url: str) -> dict[str, Any]:
        return self.get_there(url)
