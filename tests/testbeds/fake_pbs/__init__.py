"""A PBS that behaves as OpenPBS 23.06 does, as far as lemnos can tell, and really runs its jobs.

``with fake_pbs(directory) as pbs:`` gives commands in ``pbs.bin`` (qsub, qstat, qdel, qsig,
qselect, pbsnodes, pbs_tmrsh) that talk to one server process. Its hosts are addresses of
this machine's loopback. Messages, exit codes and formats are those of the real one
(its sources, and what a real one printed).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.waiting import until

COMMANDS = ("qsub", "qstat", "qdel", "qsig", "qselect", "pbsnodes", "pbs_tmrsh")
REPOSITORY = Path(__file__).parents[3]


@dataclass
class FakePbs:
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def bin(self) -> Path:
        return self.directory / "bin"

    def run(self, program: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """One of its commands, as a user runs it."""
        return subprocess.run(
            [self.bin / program, *argv],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,  # where jobs leave what they print
        )

    def jobs(self) -> dict[str, Any]:
        """All that it knows, ended ones too."""
        shown = json.loads(self.run("qstat", "-x", "-f", "-F", "json").stdout)
        jobs: dict[str, Any] = shown.get("Jobs", {})
        return jobs

    def lose(self, node: str) -> None:
        """The node goes down as one that loses its power; its jobs are requeued, if they may be."""
        assert self.run("qsig", "--lose", node).returncode == 0

    def stop(self) -> None:
        """The server does not answer any more; what runs is killed."""
        self.process.terminate()
        self.process.wait(20)


@contextmanager
def fake_pbs(directory: Path, **options: Any) -> Iterator[FakePbs]:
    """``options``: see ``Config``."""
    (directory / "bin").mkdir(parents=True)
    for name in COMMANDS:
        shim = directory / "bin" / name
        command = Path(__file__).with_name("command.py")
        shim.write_text(
            f'#!/bin/sh\nexec {sys.executable} -I -S {command} {directory} {name} "$@"\n'
        )
        shim.chmod(0o755)
    (directory / "config.json").write_text(json.dumps(options))
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.testbeds.fake_pbs.server", str(directory)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    pbs = FakePbs(directory, process)
    try:
        until((directory / "socket").exists)
        yield pbs
    finally:
        if process.poll() is None:
            pbs.stop()
