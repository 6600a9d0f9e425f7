"""This machine as it is now: what this process may use of it."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from lemnos.spec.facts import Gpu, Host

NVIDIA_QUERY = ("--query-gpu=index,name,memory.total,memory.free",)
NVIDIA_TIMEOUT_S = 15.0

Read = Callable[[str], str]
"""The text of a path below the root; nothing where there is none."""


def probe_host(root: Path = Path("/")) -> Host:
    """Cores, memory, CPU, GPUs. ``root`` is where /proc and /sys are looked for.

    Affinity and cgroup limits (v1 and v2, of this process's group and those around it)
    count: a container or a job is told of its share, not of the machine. Page cache that the
    kernel can drop counts as free. What cannot be read is None, or 0 for memory.
    """
    read = _reader(root)
    cpuinfo = read("proc/cpuinfo")
    total, free = usable_memory(read)
    return Host(
        name=socket.gethostname(),
        architecture=platform.machine(),
        cpu=parse_cpu_model(cpuinfo),
        cores=usable_cores(read, len(os.sched_getaffinity(0))),
        cpu_flags=parse_cpu_flags(cpuinfo),
        memory_bytes=total,
        free_bytes=free,
        libgomp=_has_libgomp(),
        gpus=_nvidia_gpus(),
    )


def usable_memory(read: Read) -> tuple[int, int]:
    """(in all, free) bytes of memory, the limits of cgroups counted in; 0: cannot be read."""
    total, available = parse_meminfo(read("proc/meminfo"))
    groups = _cgroup_memory(read)
    return (
        min([total, *(limit for limit, _ in groups)]),
        min([available, *(max(0, limit - used) for limit, used in groups)]),
    )


def usable_cores(read: Read, affinity: int) -> int:
    """Cores, of ``affinity`` that may be run on, with the quotas of cgroups counted in."""
    return max(1, min([affinity, *(int(cpus) for cpus in _cgroup_cpus(read))]))


def parse_meminfo(text: str) -> tuple[int, int]:
    """(MemTotal, MemAvailable) of /proc/meminfo, in bytes; 0 for what is not there."""
    values = {}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            values[key] = int(words[0]) * 1024  # meminfo's kB are KiB
    return values.get("MemTotal", 0), values.get(
        "MemAvailable", values.get("MemFree", 0)
    )


def parse_cpu_model(text: str) -> str | None:
    """The CPU's name in /proc/cpuinfo; None on architectures that do not say."""
    return _cpuinfo_value(text, "model name")


def parse_cpu_flags(text: str) -> tuple[str, ...]:
    """The CPU's features in /proc/cpuinfo: ``flags`` on x86, ``Features`` on Arm."""
    flags = _cpuinfo_value(text, "flags") or _cpuinfo_value(text, "Features") or ""
    return tuple(sorted(flags.split()))


def parse_cpu_quota(v2: str, v1_quota: str, v1_period: str) -> float | None:
    """CPUs that a cgroup may use (``cpu.max``; or quota and period of v1); None: no limit."""
    quota, _, period = v2.strip().partition(" ") if v2 else (v1_quota, "", v1_period)
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None


def parse_bytes(text: str) -> int | None:
    """A cgroup's count of bytes; None for ``max``, for v1's "no limit", and for nothing."""
    try:
        count = int(text)
    except ValueError:
        return None
    return count if count < 1 << 60 else None


def parse_cgroup_path(text: str, controller: str) -> str:
    """This process's cgroup in /proc/self/cgroup; ``controller`` is ``""`` for v2."""
    for line in text.splitlines():
        _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
        if controller in controllers.split(","):
            return path
    return "/"


def parse_inactive_file(text: str) -> int:
    """Bytes of page cache that can be dropped, in a cgroup's ``memory.stat``."""
    counts = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    return int(counts.get("total_inactive_file") or counts.get("inactive_file") or 0)


def parse_nvidia_smi(text: str) -> tuple[Gpu, ...]:
    """GPUs of ``nvidia-smi --format=csv,noheader,nounits`` (MiB); fields may be ``[N/A]``."""
    gpus = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and fields[0].isdigit():
            index, name, total, free = fields
            gpus.append(
                Gpu(
                    index=int(index),
                    name=name,
                    memory_bytes=_mib(total),
                    free_bytes=_mib(free),
                )
            )
    return tuple(gpus)


def _cpuinfo_value(text: str, key: str) -> str | None:
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _mib(text: str) -> int | None:
    return int(text) * 1024**2 if text.isdigit() else None


def _cgroup_memory(read: Read) -> list[tuple[int, int]]:
    """(limit, use) in bytes of each cgroup around this process that has a limit."""
    found = []
    for controller, limit, used in (
        ("", "memory.max", "memory.current"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        for group in _cgroups(read, controller):
            if (most := parse_bytes(read(f"{group}/{limit}"))) is not None:
                now = parse_bytes(read(f"{group}/{used}")) or 0
                cache = parse_inactive_file(read(f"{group}/memory.stat"))
                found.append((most, now - cache))
    return found


def _cgroup_cpus(read: Read) -> list[float]:
    """The quota, in CPUs, of each cgroup around this process that has one."""
    quotas = [
        parse_cpu_quota(read(f"{group}/cpu.max"), "", "")
        for group in _cgroups(read, "")
    ] + [
        parse_cpu_quota(
            "", read(f"{group}/cpu.cfs_quota_us"), read(f"{group}/cpu.cfs_period_us")
        )
        for group in _cgroups(read, "cpu")
    ]
    return [cpus for cpus in quotas if cpus is not None]


def _cgroups(read: Read, controller: str) -> list[PurePosixPath]:
    """The directories of this process's cgroup and of all that contain it."""
    mount = PurePosixPath("sys/fs/cgroup", controller)
    path = parse_cgroup_path(read("proc/self/cgroup"), controller)
    own = mount / path.strip("/")
    return [own, *(group for group in own.parents if group.is_relative_to(mount))]


def _reader(root: Path) -> Read:
    def read(path: str) -> str:
        try:
            return (root / path).read_text()
        except OSError:
            return ""

    return read


def _has_libgomp() -> bool:
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        return False
    return True


def _nvidia_gpus() -> tuple[Gpu, ...]:
    binary = shutil.which("nvidia-smi")
    if binary is None:
        return ()
    command = [binary, *NVIDIA_QUERY, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=NVIDIA_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_nvidia_smi(done.stdout)
