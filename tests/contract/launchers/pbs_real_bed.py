"""A bed whose launcher talks to a real PBS, from its login node, as ada."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from lemnos.launchers.base import Launcher
from lemnos.launchers.site import Site
from lemnos.spec.unit import Unit
from lemnos.transport.base import Done
from tests.contract.launchers.bed import Bed
from tests.contract.launchers.systemd_bed import Inside
from tests.testbeds.hosts import ADA
from tests.testbeds.pbs import Pbs

ASK = """
import sys, urllib.request
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
print(direct.open(sys.argv[1], timeout=10).read().decode())
"""


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

    def with_(self, **keys: Any) -> dict[str, Any]:
        """The bed's keys of ``pbs``, and these."""
        return {"pbs": self.keys["pbs"] | keys}

    def job(self, launcher: Launcher, name: str = "engine-0") -> dict[str, Any]:
        """The unit's job, as ``qstat -f`` has it."""
        job: dict[str, Any] = self.pbs.jobs()[launcher.status()[name].id]
        return job

    def over_hosts(self, launcher: Launcher, *code: str) -> Unit:
        """``engine-0`` with a process of ``code`` on each host, the same port on all."""
        unit = self.unit(launcher, "engine-0", *code)
        jobs = []
        for job, host in zip(unit.jobs, unit.place.hosts, strict=True):
            argv = list(job.command.argv)
            argv[-2:] = [host, str(unit.place.port)]
            command = job.command.model_copy(update={"argv": tuple(argv)})
            jobs.append(job.model_copy(update={"host": host, "command": command}))
        return unit.model_copy(update={"jobs": tuple(jobs)})

    def get(self, url: str) -> dict[str, Any]:
        """Asked there: the nodes' network is their own."""
        done = self.transport.run(*self.python, "-c", ASK, url)
        if done.code:
            raise OSError(done.err)
        told: dict[str, Any] = json.loads(done.out)
        return told
