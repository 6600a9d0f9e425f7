"""A real OpenPBS: ``login`` with its server, and nodes ``n1``, ``n2`` ... with GPUs that are only a number.

Of what somebody has built and installed (docs/testbeds.md says how); hosts run this machine's own
files, each with changes of its own. Its user is ``ada``: PBS does not see the processes of root's
jobs. Queues: ``workq`` (default), ``short`` (an hour at most),
``closed`` (takes no jobs), ``stopped`` (takes jobs, runs none). Nodes have ``gpu_model=h200``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.testbeds.hosts import ADA, HERE, SYSTEM, Hosts, hosts
from tests.testbeds.hosts import why_not as no_hosts
from tests.waiting import until

EXEC = Path(os.environ.get("PBS_EXEC", "/opt/pbs"))
SETTINGS = """
create resource ngpus type=long, flag=nh
create resource gpu_model type=string, flag=h
set server flatuid = True
set server query_other_jobs = True
set server scheduler_iteration = 5
set server node_fail_requeue = {down_after_s}
set server job_history_enable = {history}
create queue short queue_type=execution, enabled=True, started=True
set queue short resources_max.walltime = 01:00:00
create queue closed queue_type=execution, enabled=False, started=True
create queue stopped queue_type=execution, enabled=True, started=False
"""
NODE = """
create node {name}
set node {name} resources_available.ncpus = 16
set node {name} resources_available.ngpus = {gpus}
set node {name} resources_available.gpu_model = h200
"""


@dataclass
class Pbs:
    """A PBS that runs."""

    hosts: Hosts
    nodes: list[str]

    @property
    def bin(self) -> Path:
        """PBS's commands, on every host."""
        return EXEC / "bin"

    @property
    def home(self) -> Path:
        """Ada's, as the test sees it; hosts have it there, and as ``/home/ada``."""
        return self.hosts.directory / "ada"

    def at(self, host: str) -> list[str]:
        """The words before a command that is to run on ``host``, as an administrator."""
        return self.hosts.at(host)

    def as_ada(self) -> list[str]:
        """The words before a command that ada runs on the login node."""
        own = ("HOME=/home/ada", "USER=ada", "LOGNAME=ada", "LANG=C.UTF-8")
        words = ("runuser", "-u", "ada", "--", "env", "-i", *own, f"PATH={SYSTEM}")
        return [*self.hosts.at("login"), *words]

    def run(
        self, program: str, *argv: str, ada: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """One of PBS's commands on the login node, as an administrator or as ada."""
        words = self.as_ada() if ada else self.hosts.at("login")
        return subprocess.run(
            [*words, str(self.bin / program), *argv],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )

    def ask(self, program: str, *argv: str, ada: bool = False) -> str:
        """What the command prints; it must succeed."""
        done = self.run(program, *argv, ada=ada)
        assert done.returncode == 0, f"{program} {argv}: {done.stderr}"
        return done.stdout

    def configure(self, *lines: str) -> None:
        """Lines of ``qmgr``."""
        for line in lines:
            self.ask("qmgr", "-c", line)

    def jobs(self) -> dict[str, Any]:
        """All that it knows, ended ones too, where it keeps a history."""
        shown = json.loads(self.ask("qstat", "-x", "-f", "-F", "json"), strict=False)
        jobs: dict[str, Any] = shown.get("Jobs", {})
        return jobs

    def queued(self) -> list[str]:
        """The jobs that are queued or run."""
        return self.ask("qselect").split()

    def placed(self) -> list[str]:
        """``ID NODE`` of those jobs; no node where it waits."""
        jobs = {
            name: job
            for name, job in self.jobs().items()
            if job["job_state"] not in "FMX"
        }
        return [
            f"{name} {job.get('exec_host', '').split('/')[0]}"
            for name, job in jobs.items()
        ]

    def node(self, name: str) -> dict[str, Any]:
        """A node as ``pbsnodes`` shows it."""
        shown = json.loads(self.ask("pbsnodes", "-F", "json", name))
        found: dict[str, Any] = shown["nodes"][name]
        return found

    def kill_node(self, host: str) -> None:
        """Cut its power: pbs_mom and all that runs there dies at once."""
        self.hosts.kill(host)

    def revive_node(self, host: str) -> None:
        """Switch it on again, and wait until it runs jobs."""
        self.hosts.boot(host)
        self.wait([host])

    def clear(self) -> None:
        """Delete every job and wait until the nodes are free: between tests of one bed."""
        for job in self.queued():
            self.run("qdel", "-W", "force", job)
        until(lambda: not self.queued(), within_s=60)
        self.wait(self.nodes)

    def wait(self, nodes: list[str]) -> None:
        """Until these nodes are free."""

        def free() -> bool:
            return all(self.node(name)["state"] == "free" for name in nodes)

        until(free, within_s=90)


@contextmanager
def pbs(
    directory: Path,
    nodes: int = 3,
    gpus: int = 8,
    *,
    down_after_s: int = 10,
    history: bool = True,
) -> Iterator[Pbs]:
    """A PBS while the body runs; the test is skipped where there can be none.

    ``down_after_s``: how long jobs of a node that is known to be down wait for it."""
    if reason := why_not():
        pytest.skip(reason)
    names = [f"n{number}" for number in range(1, nodes + 1)]
    private = [str(path) for path in Path(sys.base_prefix).parents if not path.stat().st_mode & 1]  # fmt: skip
    start = ["sh", str(HERE / "pbs.sh"), str(EXEC)]
    services = {"login": [[*start, "server", *private]]}
    services |= {name: [[*start, "mom", *private]] for name in names}
    (directory / "ada").mkdir(parents=True)
    directory.chmod(0o755)
    with hosts(
        directory,
        "login",
        *names,
        services=services,
        root=Path("/"),
        files={f"{directory}/ada": "/home/ada"},
    ) as there:
        _write_ssh_of_ada(there)
        bed = Pbs(there, names)
        lines = SETTINGS.format(history=history, down_after_s=down_after_s)
        lines += "".join(NODE.format(name=name, gpus=gpus) for name in names)
        bed.configure(*filter(None, lines.splitlines()))
        bed.wait(names)
        yield bed


def _write_ssh_of_ada(there: Hosts) -> None:
    """She reaches every host, too: their sshds take the bed's one key for any user."""
    own, key = there.directory / "ada/.ssh", there.directory / "etc/user"
    own.mkdir()
    shutil.copy(key, own / "id")
    config = there.ssh_config.read_text().replace("User root", "User ada")
    (own / "config").write_text(config.replace(str(key), "/home/ada/.ssh/id"))
    for path in (own.parent, own, *own.iterdir()):
        os.chown(path, ADA, ADA)


def why_not() -> str | None:
    """Why there can be no PBS here; None if there can."""
    tools = [EXEC / "bin/qsub", EXEC / "sbin/pbs_mom", EXEC / "sbin/pbs_server.bin"]
    if missing := [str(tool) for tool in tools if not tool.exists()]:
        return f"needs {', '.join(missing)}: OpenPBS, which Debian does not have (docs/testbeds.md)"
    if not shutil.which("psql") or not [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]:  # fmt: skip
        return "needs PostgreSQL for PBS's data service (Debian: postgresql)"
    return no_hosts()
