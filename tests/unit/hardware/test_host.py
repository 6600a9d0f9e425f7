"""What this machine has, read from trees that look like machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemnos.hardware import host

CPUINFO = "processor\t: 0\nmodel name\t: AMD EPYC 9654\nflags\t\t: fpu avx avx2\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd sve\n"
MEMINFO = "MemTotal:       24684084 kB\nMemFree:  1000 kB\nMemAvailable:   20000000 kB\nHugePages_Total:       0\n"


def tree(tmp_path: Path, **files: str) -> Path:
    """A root with /proc and these files of /sys/fs/cgroup ('__' for '/')."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO)
    (tmp_path / "proc/meminfo").write_text(MEMINFO)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_plain_machine(tmp_path: Path) -> None:
    found = host.probe_host(tree(tmp_path))
    assert found.cpu == "AMD EPYC 9654"
    assert found.cpu_flags == ("avx", "avx2", "fpu")
    assert found.memory_bytes == 24684084 * 1024
    assert found.free_bytes == 20000000 * 1024
    assert found.cores >= 1


@pytest.mark.parametrize(
    "files",
    [
        {
            "memoryDOTmax": "4294967296\n",
            "memoryDOTcurrent": "1573741824\n",
            "memoryDOTstat": "anon 1000\ninactive_file 500000000\n",
            "cpuDOTmax": "100000 100000\n",
        },
        {
            "memory__memoryDOTlimit_in_bytes": "4294967296\n",
            "memory__memoryDOTusage_in_bytes": "1573741824\n",
            "memory__memoryDOTstat": "inactive_file 7\ntotal_inactive_file 500000000\n",
            "cpu__cpuDOTcfs_quota_us": "150000\n",
            "cpu__cpuDOTcfs_period_us": "100000\n",
        },
    ],
    ids=["cgroup v2", "cgroup v1"],
)  # fmt: skip
def test_a_container_has_its_share(tmp_path: Path, files: dict[str, str]) -> None:
    found = host.probe_host(tree(tmp_path, **files))
    assert found.memory_bytes == 4 * 1024**3
    assert found.free_bytes == 3 * 1024**3
    assert found.cores == 1


@pytest.mark.parametrize(
    ("mine", "group"),
    [("0::/system.slice/job_7\n", ""), ("5:cpu,cpuacct:/x\n4:memory:/system.slice/job_7\n0::/\n", "memory/")],
    ids=["cgroup v2", "cgroup v1"],
)  # fmt: skip
def test_a_jobs_own_cgroup_and_those_around_it_count(
    tmp_path: Path, mine: str, group: str
) -> None:
    root = tree(tmp_path)
    (root / "proc/self").mkdir()
    (root / "proc/self/cgroup").write_text(mine)
    limit, used = ("limit_in_bytes", "usage_in_bytes") if group else ("max", "current")
    for place, most, now in (("", 8, 7), ("/job_7", 4, 1)):
        directory = root / "sys/fs/cgroup" / f"{group}system.slice{place}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"memory.{limit}").write_text(f"{most * 1024**3}\n")
        (directory / f"memory.{used}").write_text(f"{now * 1024**3}\n")
    found = host.probe_host(root)
    assert found.memory_bytes == 4 * 1024**3
    assert found.free_bytes == 1 * 1024**3  # what the slice around it has left


def test_no_limits_are_no_limits(tmp_path: Path) -> None:
    files = {
        "memoryDOTmax": "max\n",
        "cpuDOTmax": "max 100000\n",
        "memory__memoryDOTlimit_in_bytes": "9223372036854771712\n",
    }
    assert host.probe_host(tree(tmp_path, **files)).memory_bytes == 24684084 * 1024


def test_what_cannot_be_read_is_unknown(tmp_path: Path) -> None:
    found = host.probe_host(tmp_path)
    assert (found.cpu, found.cpu_flags, found.memory_bytes) == (None, (), 0)


def test_arm_says_features() -> None:
    assert host.parse_cpu_flags(ARM) == ("asimd", "fp", "sve")
    assert host.parse_cpu_model(ARM) is None


@pytest.mark.parametrize(
    ("v2", "quota", "period", "cpus"),
    [("50000 100000", "", "", 0.5), ("", "-1", "100000", None), ("", "", "", None), ("x", "", "", None), ("1 0", "", "", None)],
)  # fmt: skip
def test_cpu_quota(v2: str, quota: str, period: str, cpus: float | None) -> None:
    assert host.parse_cpu_quota(v2, quota, period) == cpus


def test_gpus_with_and_without_readable_memory() -> None:
    text = (
        "0, NVIDIA H200, 143771, 143000\n1, NVIDIA GH200 96GB, [N/A], [N/A]\nnonsense\n"
    )
    first, second = host.parse_nvidia_smi(text)
    assert (first.name, first.memory_bytes) == ("NVIDIA H200", 143771 * 1024**2)
    assert (second.index, second.memory_bytes, second.free_bytes) == (1, None, None)


def test_nvidia_smi_is_asked_and_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    binary = tmp_path / "nvidia-smi"
    binary.write_text(
        '#!/bin/sh\ncase "$*" in *memory.total*) echo "0, NVIDIA L40S, 46068, 45000";; esac\n'
    )
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert [gpu.name for gpu in host.probe_host().gpus] == ["NVIDIA L40S"]
    binary.write_text("#!/bin/sh\nexit 9\n")
    assert host.probe_host().gpus == ()


def test_a_machine_without_libgomp(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise OSError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert host.probe_host().libgomp is False
