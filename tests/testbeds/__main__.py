"""``python -m tests.testbeds BED``: bring one up by hand, with a shell on it, as root."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.testbeds.hosts import environment, hosts
from tests.testbeds.pbs import pbs
from tests.testbeds.slurm import slurm
from tests.testbeds.slurm24 import slurm24
from tests.testbeds.systemd import systemd

BEDS: dict[str, tuple[str, Callable[[Path], AbstractContextManager[object]]]] = {
    "hosts": ("desk", lambda directory: hosts(directory, "desk", "n1", "n2")),
    "slurm": ("login", slurm),
    "slurm24": ("login", slurm24),
    "accounting": ("login", lambda directory: slurm(directory, accounting=True)),
    "pbs": ("login", pbs),
    "systemd": ("root", lambda directory: systemd(directory, "box", "other")),
}


def main(bed: str) -> None:
    if bed not in BEDS:
        sys.exit(f"there is no bed {bed!r}: choose from {', '.join(BEDS)}")
    where, bring_up = BEDS[bed]
    with tempfile.TemporaryDirectory(prefix="lemnos-bed-") as directory:
        try:
            with bring_up(Path(directory)) as made:
                at = made.at(where)  # type: ignore[attr-defined]
                subprocess.run([*at, "bash"], check=False, env=environment())
        except pytest.skip.Exception as reason:
            sys.exit(str(reason))


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]))
