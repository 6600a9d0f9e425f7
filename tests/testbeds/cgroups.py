"""The cgroups of beds: in version 1's freezer, which Slurm finds a job's processes by, and in
version 2's tree, which systemd makes its own in."""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path

from tests.waiting import until

FREEZER = Path("/sys/fs/cgroup/freezer")
_numbers = itertools.count(1)


def new() -> list[Path]:
    """Where the cgroups of a new bed belong, in each tree that this machine has. Those of
    tests that were killed are removed: they are all that such tests leave."""
    trees = [
        tree for tree in (FREEZER, version_2()) if tree and os.access(tree, os.W_OK)
    ]
    for old in (old for tree in trees for old in tree.glob("lemnos-bed-*")):
        if not Path("/proc", old.name.split("-")[2]).exists():
            remove(old)
    number = next(_numbers)
    return [tree / f"lemnos-bed-{os.getpid()}-{number}" for tree in trees]


def version_2() -> Path | None:
    """Where version 2's tree is mounted, if it is."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return next(
        (Path(target) for _, target, kind, *_ in mounts if kind == "cgroup2"), None
    )


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
