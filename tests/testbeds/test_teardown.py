"""Nothing stays of a bed: when the test's body ends, when it fails, when pytest is killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.testbeds import cgroups, slurm, systemd
from tests.testbeds.hosts import REPOSITORY
from tests.waiting import until

pytestmark = pytest.mark.bed
REASONS = {"hosts": None, "slurm": slurm.why_not(), "systemd": systemd.why_not()}
BODY = """
import os, pathlib
from tests.testbeds.{bed} import {bed}
with {bed}(pathlib.Path({directory!r}), {arguments}) as bed:
    run = bed.run if {bed!r} == "systemd" else lambda *command: bed.run("n1", *command)
    run("sh", "-c", "setsid sleep $0 >/dev/null 2>&1 & mkdir -p /sys/fs/cgroup/left/deep", str(os.getpid()))
    run("mount", "-t", "tmpfs", "tmpfs", "/mnt")
    {end}
"""


@pytest.mark.parametrize(
    "end", ["pass", "raise SystemExit(3)", "os.kill(os.getpid(), 9)"]
)
@pytest.mark.parametrize(
    ("bed", "arguments"), [("hosts", "'n1', 'n2'"), ("slurm", "2"), ("systemd", "")]
)
def test_nothing_stays(tmp_path: Path, bed: str, arguments: str, end: str) -> None:
    if reason := REASONS[bed]:
        pytest.skip(reason)
    body = BODY.format(bed=bed, arguments=arguments, directory=str(tmp_path), end=end)
    with subprocess.Popen([sys.executable, "-c", body], cwd=REPOSITORY) as made:
        assert made.wait(120) in (0, 3, -9)
    until(lambda: not _running(str(tmp_path), f"sleep {made.pid}"))
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    if made.returncode == -9:
        cgroups.new()  # what the next bed begins with
    assert not [*Path("/sys/fs/cgroup").glob(f"**/lemnos-bed-{made.pid}-*")]


def _running(*words: str) -> bool:
    """Whether a process has one of these in its command line."""
    lines = [
        " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])
    ]
    return any(word in line for word in words for line in lines)
