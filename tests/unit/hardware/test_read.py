"""Readings to Nodes. 2xh200-*.json are of a real machine on which a process held memory of both."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lemnos.hardware import agent, collect, disk_speed
from lemnos.hardware.catalogue import kind_of
from lemnos.hardware.read import Readings, node, parse_smi_apps, parse_smi_gpus
from lemnos.spec.cluster import Disk, Nic, Node

DATA = Path(__file__).parents[2] / "data/readings"


def h200s(how: str = "nvml", **changes: Any) -> Node:
    data = json.loads((DATA / f"2xh200-{how}.json").read_text())
    return node(Readings.model_validate({**data, **changes}))


def gpus(how: str = "nvml") -> Any:
    return json.loads((DATA / f"2xh200-{how}.json").read_text())["gpus"]


@pytest.mark.parametrize("how", ["nvml", "smi"])
def test_a_real_machine_by_nvml_and_by_nvidia_smi(how: str) -> None:
    found = h200s(how)
    first, second = found.gpus
    # 139.8 is what torch said was there; nvidia-smi's total has the driver's part in it.
    assert (first.kind, first.memory_gib, first.free_gib) == ("H200", 139.8, 119.29)
    (holder,) = first.held
    assert (holder.user, holder.command, holder.gib) == ("root", "python3", 20.51)
    assert second.held[0].pid == holder.pid
    assert (found.driver, found.cuda) == ("580.159.04", "13.0")
    assert (found.gpu_link, found.peer_access) == ("NV18", True)
    assert (found.shm_gib, found.cores) == (256.0, 32)
    assert found.unknown == ()


def test_memory_that_nobody_seen_holds_is_said() -> None:
    found = h200s(apps=[])
    assert found.gpus[0].held == ()
    assert found.gpus[0].free_gib == 119.29
    first, second = found.unknown
    assert first.startswith("GPU 0: 20.5 GiB are held by processes that cannot be seen")
    assert second.startswith("GPU 1: 0.5 GiB")


def test_a_holder_whose_share_is_not_said() -> None:
    apps = [{"uuid": gpus()[0]["uuid"], "pid": 7, "used": None}]
    found = h200s(apps=apps, people={})
    holder = found.gpus[0].held[0]
    assert (holder.pid, holder.user, holder.command, holder.gib) == (
        7,
        None,
        None,
        None,
    )


@pytest.mark.parametrize(
    ("visible", "indices"),
    [("1", [1]), ("0,1", [0, 1]), ("", []), ("-1", []), ("GPU-541b446f", [1])],
)
def test_only_visible_gpus_are_ours(visible: str, indices: list[int]) -> None:
    found = h200s(visible=visible)
    assert [gpu.index for gpu in found.gpus] == indices
    hidden = any("CUDA_VISIBLE_DEVICES" in said for said in found.unknown)
    assert hidden is (len(indices) < 2)
    assert found.gpu_link == ("NV18" if len(indices) == 2 else None)


def test_what_the_driver_does_not_say_is_unknown() -> None:
    said = [
        {"index": 0, "uuid": "a", "name": "NVIDIA GB10", "total": None, "mig": True},
        {"index": 1},
    ]
    found = h200s(gpus=said, apps=[], texts={}, driver=None, files={}, shm=None)
    assert [(gpu.kind, gpu.memory_gib, gpu.free_gib) for gpu in found.gpus] == [
        (None, None, None)
    ] * 2
    assert (found.driver, found.memory_gib, found.shm_gib) == (None, None, None)
    text = "\n".join(found.unknown)
    for part in (
        "host memory",
        "the catalogue of GPUs has no 'NVIDIA GB10'",
        "GPU 1: its driver does not say",
        "GPU 0 is split by MIG",
        "links between the GPUs",
        "peer access",
    ):
        assert part in text


def test_devices_that_no_driver_answers_for() -> None:
    none: dict[str, Any] = {"gpus": None, "apps": [], "texts": {}}
    silent = h200s(**none, pci=["0x10de", "0x1002", "0x10de", "0x1a03"])
    assert silent.gpus == ()
    assert silent.unknown[0].startswith("2 NVIDIA devices are on the PCI bus")
    assert silent.unknown[1].startswith("1 AMD graphics devices")
    assert h200s(**none, pci=["0x1a03"]).unknown == ()
    assert h200s(**none, pci=[]).driver == "580.159.04"  # by /proc


def test_nvlink_over_nodes() -> None:
    data = [{**gpu, "fabric": "abc/1"} for gpu in gpus()]
    assert h200s(gpus=data).nvlink_domain == "abc/1"
    data[0]["fabric"] = "abc/2"
    assert h200s(gpus=data).nvlink_domain is None


def test_older_nvidia_smi() -> None:
    text = "0, GPU-a, NVIDIA A100-SXM4-40GB, 40960, [N/A]\nnonsense\n1, x\n"
    (gpu,) = parse_smi_gpus(text)
    assert (gpu["total"], gpu["free"], gpu["reserved"]) == (40960 << 20, None, 0)


def test_arguments_in_a_process_name_are_left_out() -> None:
    text = (
        "GPU-a, 7, /usr/bin/python3 serve --api-key a,b, 100\n"
        "GPU-a, 8, [Not Found], [N/A]\nNo running processes\n"
    )
    first, second = parse_smi_apps(text)
    assert (first["name"], first["used"]) == ("python3", 100 << 20)
    assert second["used"] is None


@pytest.mark.parametrize(
    ("name", "gib", "kind"),
    [
        ("NVIDIA GH200 480GB", 94.5, "GH200-96"),
        ("NVIDIA GH200 480GB", 139.9, "GH200-144"),
        ("NVIDIA A100-SXM4-80GB", 39.4, "A100-40"),
        ("NVIDIA H200", 60.0, "H200"),
        ("NVIDIA H200", None, "H200"),
        ("NVIDIA Nothing", 80.0, None),
    ],
)
def test_the_kind_of_a_name_and_a_memory(
    name: str, gib: float | None, kind: str | None
) -> None:
    found = kind_of(name, gib)
    assert (found.name if found else None) == kind


# ---------------------------------------------------------------- trees of /sys and /proc


def tree(root: Path, texts: dict[str, str]) -> Path:
    for path, text in texts.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def read_tree(root: Path) -> Node:
    return node(
        Readings.model_validate(json.loads(json.dumps(collect.collect(str(root)))))
    )


NDR = {
    "rate": "400 Gb/sec (4X NDR)\n",
    "state": "4: ACTIVE\n",
    "link_layer": "InfiniBand\n",
}
ROCE = {
    "rate": "100 Gb/sec (4X EDR)\n",
    "state": "1: DOWN\n",
    "link_layer": "Ethernet\n",
}


def test_network_devices(tmp_path: Path) -> None:
    texts: dict[str, str] = {}
    for port, values in (
        ("mlx5_0/ports/1", NDR),
        ("mlx5_1/ports/1", ROCE),
        ("mlx5_2/ports/1", NDR),
        ("mlx5_2/ports/2", {}),
    ):
        texts |= {f"sys/class/infiniband/{port}/{k}": v for k, v in values.items()}
        (tmp_path / "sys/class/infiniband" / port).mkdir(parents=True)
    texts["sys/class/infiniband/mlx5_1/device/net/ens1/operstate"] = "down\n"
    for name, values in (
        ("eth0", {"speed": "25000", "operstate": "up", "type": "1", "device/x": ""}),
        ("ens1", {"speed": "100000", "operstate": "down", "type": "1", "device/x": ""}),
        ("bond0", {"speed": "50000", "operstate": "up", "type": "1", "bonding/x": ""}),
        ("ib0", {"type": "32", "device/x": ""}),
        ("docker0", {"speed": "-1", "operstate": "down", "type": "1"}),
        ("lo", {"operstate": "unknown", "type": "772"}),
    ):
        texts |= {f"sys/class/net/{name}/{k}": f"{v}\n" for k, v in values.items()}
    assert read_tree(tree(tmp_path, texts)).nics == (
        Nic(name="mlx5_0", kind="infiniband", gbit_s=400, up=True),
        Nic(name="mlx5_1", kind="roce", gbit_s=100, up=False),
        Nic(name="mlx5_2:1", kind="infiniband", gbit_s=400, up=True),
        Nic(name="mlx5_2:2", kind="infiniband"),
        Nic(name="bond0", kind="ethernet", gbit_s=50, up=True),
        Nic(name="eth0", kind="ethernet", gbit_s=25, up=True),
    )


def test_a_jobs_share_and_the_gpus_of_the_bus(tmp_path: Path) -> None:
    texts = {
        "proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n",
        "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 2000\n",
        "proc/self/cgroup": "0::/slurm/job_7\n",
        "sys/fs/cgroup/slurm/memory.max": "4294967296\n",
        "sys/fs/cgroup/slurm/memory.current": "3221225472\n",
        "sys/fs/cgroup/slurm/job_7/cpu.max": "100000 100000\n",
        "sys/bus/pci/devices/a/class": "0x030200\n",
        "sys/bus/pci/devices/a/vendor": "0x1002\n",
        "sys/bus/pci/devices/b/class": "0x020000\n",
        "sys/bus/pci/devices/b/vendor": "0x10de\n",
    }
    found = read_tree(tree(tmp_path, texts))
    assert (found.memory_gib, found.free_gib, found.cores) == (4.0, 1.0, 1)
    assert any("1 AMD" in said for said in found.unknown)
    assert not any("NVIDIA devices" in said for said in found.unknown)


def test_arms_cpu_by_lscpu() -> None:
    texts = {"lscpu": "Vendor ID: ARM\nModel name:   Neoverse-V2\n"}
    assert h200s(texts=texts, files={}).cpu == "Neoverse-V2"
    assert h200s(texts={"lscpu": "Model name: -\n"}, files={}).cpu is None


@pytest.mark.parametrize("module", [agent, collect, disk_speed])
def test_the_scripts_are_python_3_6(module: ModuleType) -> None:
    source = Path(str(module.__file__)).read_text()
    ast.parse(source, feature_version=(3, 6))
    assert "annotations" not in source  # of __future__: 3.7


def test_cgroups_of_v1() -> None:
    text = "4:memory:/a/b\n3:cpu,cpuacct:/a\n1:name=systemd:/x\n"
    found = list(collect.cgroup_files(text))
    assert "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes" in found
    assert "sys/fs/cgroup/memory/memory.limit_in_bytes" in found
    assert "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us" in found
    assert "sys/fs/cgroup/memory.max" in found


def test_mounts() -> None:
    text = (
        "/dev/sda1 / ext4 rw 0 0\nauto /net autofs rw 0 0\n"
        "server:/x /my\\040data nfs4 rw 0 0\nmds:/l /lustre lustre rw 0 0\n"
        "x /fuse fuse.sshfs rw 0 0\nlxcfs /var/lib/lxcfs fuse.lxcfs rw 0 0\n"
    )
    found = collect.mounts(text)
    shared = [point for point, kind in found.items() if collect.is_network(kind)]
    assert shared == ["/my data", "/lustre", "/fuse"]
    assert collect.mount_of("/my data/models/x", found) == "/my data"
    assert collect.mount_of("/lustrefoo", found) == "/"
    assert collect.mount_of("/home/me", {}) == "/"


def test_disks() -> None:
    disk = {
        "mount": "/lustre",
        "filesystem": "lustre",
        "shared": True,
        "path": "/lustre/models",
        "total": 1 << 40,
        "free": 1 << 39,
        "read": 2.5e9,
    }
    found = h200s(disks=[disk, {"mount": "/x", "filesystem": "nfs", "shared": True}])
    assert found.disks == (
        Disk(path="/lustre", filesystem="lustre", shared=True, total_gib=1024,
             free_gib=512, read_gb_s=2.5),
        Disk(path="/x", filesystem="nfs", shared=True),
    )  # fmt: skip


def test_where_models_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEMNOS_HOME")
    assert collect.models_dir("/h") == "/h/.local/share/lemnos/models"
    monkeypatch.setenv("XDG_DATA_HOME", "/d")
    assert collect.models_dir("/h") == "/d/lemnos/models"
    monkeypatch.setenv("LEMNOS_HOME", "/l")
    assert collect.models_dir("/h") == "/l/models"
    monkeypatch.setenv("LEMNOS_MODELS", "/m")
    assert collect.models_dir("/h") == "/m"
