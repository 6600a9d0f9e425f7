"""The cgroups of a bed: of version 1's freezer, which Slurm finds a job's processes by."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path

from tests.waiting import until

FREEZER = Path("/sys/fs/cgroup/freezer")
_numbers = itertools.count(1)


def new() -> Path | None:
    """Where the cgroups of a new bed belong; None if this machine has no such hierarchy. Those
    of tests that were killed are removed: they are all that such tests leave."""
    if not FREEZER.is_dir():
        return None
    for old in FREEZER.glob("lemnos-bed-*"):
        if not Path("/proc", old.name.split("-")[2]).exists():
            remove(old)
    return FREEZER / f"lemnos-bed-{os.getpid()}-{next(_numbers)}"


def thaw(top: Path) -> None:
    """Thaw what is frozen at and under this cgroup: it would not die."""
    for state in top.rglob("freezer.state"):
        with suppress(OSError):  # the cgroup went away by itself
            state.write_text("THAWED")


def remove(top: Path) -> None:
    """Remove the cgroups at and under ``top``, as soon as the kernel has buried their last."""

    def gone() -> bool:
        for path in sorted(top.rglob("*/"), reverse=True):
            with suppress(OSError):
                path.rmdir()
        with suppress(OSError):
            top.rmdir()
        return not top.exists()

    until(gone)
