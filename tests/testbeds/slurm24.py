"""The same cluster with Debian 13's Slurm 24.11: its hosts run that system, from a directory.

``python -m tests.testbeds.slurm24`` makes the directory, once: a minute, as root, with a
network. It is under LEMNOS_BED_CACHE, or else in pytest's own cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.testbeds.hosts import REPOSITORY, SYSTEM
from tests.testbeds.slurm import Slurm, slurm

PACKAGES = (
    "slurmctld",
    "slurmd",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "slurmdbd",
    "mariadb-server-core",
    "munge",
    "iproute2",
    "openssh-server",
    "openssh-client",
    "procps",
    "libgomp1",  # llama.cpp's
    "libpython3-stdlib",  # for the libraries that this machine's Python is linked with
)
# Read now: tests hide LEMNOS_* from what they run.
CACHE = Path(
    os.environ.get("LEMNOS_BED_CACHE") or REPOSITORY / ".pytest_cache/d/testbeds"
)
ROOT = CACHE / f"debian13-{zlib.crc32(repr(PACKAGES).encode()):08x}"


@contextmanager
def slurm24(
    directory: Path, nodes: int = 3, gpus: int = 8, **options: Any
) -> Iterator[Slurm]:
    """As ``slurm``, with its options. Programs of this machine that are outside the repository,
    Python and the directory of temporary files are not there."""
    if reason := why_not():
        pytest.skip(reason)
    shared = [Path(sys.prefix), Path(sys.base_prefix), Path(tempfile.gettempdir())]
    with slurm(directory, nodes, gpus, root=ROOT, shared=shared, **options) as bed:
        yield bed


def why_not() -> str | None:
    """Why there can be no Slurm 24.11 here, beside what 22.05 needs, too."""
    if not ROOT.is_dir():
        return (
            "needs Debian 13's files: 'python -m tests.testbeds.slurm24' fetches them"
        )
    if sys.base_prefix in ("/usr", "/usr/local"):
        return "needs a Python that is not the system's, which Debian 13 would not have"
    return None


def create() -> None:
    """Make ``ROOT`` from where this machine gets its own packages. Raises CalledProcessError."""
    new = ROOT.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.parent.mkdir(parents=True, exist_ok=True)
    ask = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    mirror = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.split()[0]  # fmt: skip
    words = ["--variant=minbase", f"--include={','.join(PACKAGES)}", "trixie", str(new), mirror]  # fmt: skip
    subprocess.run(["debootstrap", *words], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(new / "var/cache/apt", ignore_errors=True)
    new.rename(ROOT)


if __name__ == "__main__" and not ROOT.is_dir():
    if os.getuid() != 0 or not shutil.which("debootstrap", path=SYSTEM):
        sys.exit("needs root and debootstrap (Debian: debootstrap)")
    create()
