"""Readings of one machine, as raw as they come: ``hardware/read.py`` makes a Node of them.

This file is also sent whole over SSH and run by whatever ``python3`` is there. So it knows
the standard library only (and nvidia-ml-py where it is installed), and Python 3.6, which
RHEL 8 still has.
"""
# ruff: noqa: UP006, UP035, UP036, UP045

import contextlib
import fcntl
import glob
import json
import os
import platform
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

MARK = "lemnos-answer "
"""Begins the line that is the answer: a shell's startup files may print before it."""

SMI_S = 30.0  # nvidia-smi on 8 GPUs without the persistence daemon was seen to take over 10 s
STAT_S = 4.0  # a hung file server must not hang the probe

NETWORK_FILESYSTEMS = (
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "beegfs_nodev", "ceph", "wekafs", "panfs", "pvfs2",
    "orangefs", "cifs", "smb3", "9p", "virtiofs", "afs", "glusterfs", "daos", "quobyte",
)  # fmt: skip
LOCAL_FUSE = ("fuse.lxcfs", "fuse.gvfsd-fuse", "fuse.portal", "fuse.snapfuse", "fuse.fuse-overlayfs", "fuse.squashfuse", "fuse.dumb_init")  # fmt: skip

GPU_FIELDS = "index,uuid,name,memory.total,memory.free,memory.reserved,mig.mode.current"
OLD_GPU_FIELDS = "index,uuid,name,memory.total,memory.free"
APP_FIELDS = "gpu_uuid,pid,process_name,used_gpu_memory"


def collect(root: str = "/") -> Dict[str, Any]:
    """Everything that can be read here. ``root`` is where /proc and /sys are looked for."""
    unknown: List[str] = []
    gpus, apps = nvml_gpus(unknown)
    texts = {"lscpu": command(["lscpu"])}
    if gpus is not None:
        apps_of = [str(app["pid"]) for app in apps]
        driver, cuda = nvml_versions()
    else:
        texts["gpus"] = csv("--query-gpu", GPU_FIELDS) or csv(
            "--query-gpu", OLD_GPU_FIELDS
        )
        texts["apps"] = csv("--query-compute-apps", APP_FIELDS) if texts["gpus"] else ""
        apps_of = [
            line.split(",")[1].strip()
            for line in texts["apps"].splitlines()
            if line.count(",") >= 3
        ]
        texts["smi"] = smi([]) if texts["gpus"] else ""
        driver = cuda = None
    if gpus or texts.get("gpus"):
        texts["topology"] = smi(["topo", "-m"])
        texts["peers"] = smi(["topo", "-p2p", "r"])
    home = os.path.expanduser("~")
    return {
        "name": socket.gethostname(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "files": files(root),
        "texts": texts,
        "gpus": gpus,
        "apps": apps,
        "people": people(root, apps_of),
        "driver": driver,
        "cuda": cuda,
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "pci": pci_displays(root),
        "infiniband": infiniband(root),
        "interfaces": interfaces(root),
        "shm": stat_filesystems({"shm": "/dev/shm"}).get("shm"),
        "disks": disks(root, models_dir(home), home, unknown),
        "unknown": unknown,
    }


# ---------------------------------------------------------------- files


def files(root: str) -> Dict[str, str]:
    """Texts of /proc and of this process's cgroups, by path below the root."""
    wanted = ["proc/meminfo", "proc/self/cgroup", "proc/driver/nvidia/version"]
    wanted += list(cgroup_files(read(root, "proc/self/cgroup")))
    found = {path: read(root, path) for path in wanted}
    # One processor is enough: hundreds of them are a megabyte.
    found["proc/cpuinfo"] = read(root, "proc/cpuinfo").split("\n\n")[0]
    return {path: text for path, text in found.items() if text}


def cgroup_files(text: str) -> Iterator[str]:
    """Where limits may stand: in this process's cgroup and in those around it."""
    limits = {
        "": ("memory.max", "memory.current", "memory.stat", "cpu.max"),
        "memory": (
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "memory.stat",
        ),
        "cpu": ("cpu.cfs_quota_us", "cpu.cfs_period_us"),
    }
    own = {"": "/", "memory": "/", "cpu": "/"}
    for line in text.splitlines():
        for controller in (line.split(":", 2) + ["", ""])[1].split(","):
            if controller in own:
                own[controller] = line.split(":", 2)[2]
    for controller, path in own.items():
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            directory = "/".join(
                filter(None, ["sys/fs/cgroup", controller] + parts[:depth])
            )
            for name in limits[controller]:
                yield directory + "/" + name


def read(root: str, path: str) -> str:
    """A small file's text; nothing where it cannot be read."""
    try:
        with open(os.path.join(root, path), errors="replace") as handle:
            return handle.read()
    except OSError:
        return ""


def people(root: str, pids: List[str]) -> Dict[str, Tuple[Optional[str], str]]:
    """(user, command's name) of each process. Never its arguments: keys may be in them."""
    found: Dict[str, Tuple[Optional[str], str]] = {}
    for pid in pids:
        name = read(root, "proc/" + pid + "/comm").strip()
        try:
            uid = os.stat(os.path.join(root, "proc", pid)).st_uid
        except OSError:
            continue
        try:
            user = pwd.getpwuid(uid).pw_name
        except KeyError:
            user = str(uid)
        found[pid] = (user, name)
    return found


# ---------------------------------------------------------------- GPUs


def nvml_gpus(unknown: List[str]) -> Tuple[Optional[List[Any]], List[Any]]:
    """GPUs and the processes on them by NVML; None where nvidia-ml-py or NVML is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        return None, []
    except Exception as error:  # its own classes, one for each of NVML's codes
        if "not found" not in str(error).lower():
            unknown.append(f"NVML could not be asked: {error}")
        return None, []
    try:
        gpus, apps = [], []
        for index in range(pynvml.nvmlDeviceGetCount()):
            gpu, on_it = nvml_gpu(pynvml, index, unknown)
            gpus.append(gpu)
            apps += on_it
        return gpus, apps
    except Exception as error:
        unknown.append(f"NVML could not be asked: {error}")
        return None, []
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def nvml_gpu(nvml: Any, index: int, unknown: List[str]) -> Tuple[Dict[str, Any], Any]:
    """One GPU (memory in bytes), and its processes."""

    def ask(name: str, *more: Any) -> Any:
        try:
            return getattr(nvml, name)(handle, *more)
        except Exception:
            return None

    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except Exception as error:  # fallen off the bus, or another user's
        unknown.append(f"GPU {index} could not be asked: {error}")
        return {"index": index}, []
    memory = ask("nvmlDeviceGetMemoryInfo", getattr(nvml, "nvmlMemory_v2", 0))
    memory = memory or ask("nvmlDeviceGetMemoryInfo")
    mig = ask("nvmlDeviceGetMigMode")
    uuid = plain(ask("nvmlDeviceGetUUID"))
    gpu = {
        "index": index,
        "uuid": uuid,
        "name": plain(ask("nvmlDeviceGetName")),
        "total": memory.total if memory else None,
        "free": memory.free if memory else None,
        "reserved": getattr(memory, "reserved", 0),
        "mig": bool(mig and mig[0]),
        "fabric": nvml_fabric(nvml, handle),
    }
    apps = {}
    for kind in ("Compute", "Graphics"):
        for app in ask(f"nvmlDeviceGet{kind}RunningProcesses") or []:
            apps[app.pid] = {"uuid": uuid, "pid": app.pid, "used": app.usedGpuMemory}
    return gpu, list(apps.values())


def nvml_fabric(nvml: Any, handle: Any) -> Optional[str]:
    """The NVLink domain over several nodes that the GPU is in: ``cluster/clique``."""
    try:
        info = nvml.c_nvmlGpuFabricInfo_t()
        nvml.nvmlDeviceGetGpuFabricInfo(handle, nvml.byref(info))
        cluster = bytes(bytearray(info.clusterUuid)).hex()
        if info.state != nvml.NVML_GPU_FABRIC_STATE_COMPLETED or not cluster.strip("0"):
            return None
        return f"{cluster}/{info.cliqueId}"
    except Exception:
        return None


def nvml_versions() -> Tuple[Optional[str], Optional[str]]:
    """The driver's version, and the newest CUDA that it serves."""
    import pynvml

    driver = cuda = None
    with contextlib.suppress(Exception):
        pynvml.nvmlInit()
        driver = plain(pynvml.nvmlSystemGetDriverVersion())
        number = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        cuda = f"{number // 1000}.{number % 1000 // 10}"
        pynvml.nvmlShutdown()
    return driver, cuda


def plain(text: Any) -> Any:
    """Text, which older versions of nvidia-ml-py give as bytes."""
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def csv(query: str, fields: str) -> str:
    """A table of nvidia-smi, memory in MiB."""
    return smi([query + "=" + fields, "--format=csv,noheader,nounits"])


def smi(words: List[str]) -> str:
    """What nvidia-smi says; nothing where it is missing or fails."""
    return command(["nvidia-smi"] + words, SMI_S)


def command(words: List[str], timeout: float = 10.0) -> str:
    """What a command prints; nothing where it is missing, fails or hangs."""
    if not shutil.which(words[0]):
        return ""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            env=dict(os.environ, LC_ALL="C"),
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


def pci_displays(root: str) -> List[str]:
    """Vendors of the graphics and compute devices on the PCI bus: ``0x10de`` is NVIDIA."""
    vendors = []
    for device in sorted(glob.glob(os.path.join(root, "sys/bus/pci/devices/*"))):
        kind = read(device, "class").strip()
        if kind.startswith(("0x0300", "0x0302", "0x0380", "0x1200")):
            vendors.append(read(device, "vendor").strip())
    return vendors


# ---------------------------------------------------------------- network devices


def infiniband(root: str) -> List[Dict[str, Any]]:
    """Ports of the RDMA devices."""
    found = []
    for port in sorted(glob.glob(os.path.join(root, "sys/class/infiniband/*/ports/*"))):
        device = os.path.dirname(os.path.dirname(port))
        found.append(
            {
                "device": os.path.basename(device),
                "port": os.path.basename(port),
                "rate": read(port, "rate").strip(),
                "state": read(port, "state").strip(),
                "layer": read(port, "link_layer").strip(),
                "interfaces": sorted(
                    os.path.basename(path)
                    for path in glob.glob(os.path.join(device, "device/net/*"))
                ),
            }
        )
    return found


def interfaces(root: str) -> List[Dict[str, Any]]:
    """Network interfaces, and their IPv4 addresses."""
    found = []
    for path in sorted(glob.glob(os.path.join(root, "sys/class/net/*"))):
        name = os.path.basename(path)
        address, mask = ipv4(name) if root == "/" else (None, None)
        found.append(
            {
                "name": name,
                "speed": read(path, "speed").strip(),
                "state": read(path, "operstate").strip(),
                "type": read(path, "type").strip(),
                "device": os.path.exists(os.path.join(path, "device")),
                "bond": os.path.exists(os.path.join(path, "bonding")),
                "address": address,
                "mask": mask,
            }
        )
    return found


def ipv4(interface: str) -> Tuple[Optional[str], Optional[str]]:
    """The interface's (first) address and netmask."""
    request = struct.pack("256s", interface.encode()[:15])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            address = fcntl.ioctl(asked, 0x8915, request)[20:24]  # SIOCGIFADDR
            mask = fcntl.ioctl(asked, 0x891B, request)[20:24]  # SIOCGIFNETMASK
        except OSError:
            return None, None
    return socket.inet_ntoa(address), socket.inet_ntoa(mask)


# ---------------------------------------------------------------- file systems


def models_dir(home: str) -> str:
    """Where lemnos keeps models, as lemnos.paths has it."""
    if os.environ.get("LEMNOS_MODELS"):
        return os.path.expanduser(os.environ["LEMNOS_MODELS"])
    if os.environ.get("LEMNOS_HOME"):
        return os.path.join(os.path.expanduser(os.environ["LEMNOS_HOME"]), "models")
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(home, ".local/share")
    return os.path.join(data, "lemnos/models")


def disks(
    root: str, models: str, home: str, unknown: List[str]
) -> List[Dict[str, Any]]:
    """File systems that models may lie on: those of ``models`` and ``home``, and shared ones."""
    mounted = mounts(read(root, "proc/self/mounts") or read(root, "proc/mounts"))
    wanted = {"models": models, "home": home}
    wanted.update((point, point) for point, kind in mounted.items() if is_network(kind))
    answers = stat_filesystems(wanted)
    found: Dict[str, Dict[str, Any]] = {}
    for what, path in wanted.items():
        point = mount_of(answers.get(what, {}).get("path") or path, mounted)
        if what not in answers:
            unknown.append(
                f"the file system at {point} did not say its size within {STAT_S:g} s"
            )
        disk = found.setdefault(
            point, {"mount": point, "filesystem": mounted.get(point, "unknown")}
        )
        disk["shared"] = is_network(disk["filesystem"])
        if what in answers:
            disk.update(answers[what])
    return list(found.values())


def mounts(text: str) -> Dict[str, str]:
    """Mount point -> file system's kind, of /proc/mounts; the last mount of a point holds."""
    found = {}
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) >= 3 and words[2] != "autofs":
            point = words[1]
            for code, char in (("\\040", " "), ("\\011", "\t"), ("\\134", "\\")):
                point = point.replace(code, char)
            found[point] = words[2]
    return found


def is_network(kind: str) -> bool:
    """What one node writes there, others read."""
    if kind.startswith("fuse.") and kind not in LOCAL_FUSE:
        return True
    return kind in NETWORK_FILESYSTEMS


def mount_of(path: str, mounted: Dict[str, str]) -> str:
    """The mount point that ``path`` lies below."""
    while path not in mounted and path not in ("/", ""):
        path = os.path.dirname(path)
    return path or "/"


def stat_filesystems(paths: Dict[str, str]) -> Dict[str, Dict[str, Any]]:
    """Size in bytes of the file system of each path, or of its nearest directory that exists.

    A process asks for each: one that a file server leaves hanging is given up.
    """
    script = (
        'p=$(readlink -m -- "$1") || p=$1; echo "$p"; '
        'while ! stat -f -c "%S %b %a" -- "$p" 2>/dev/null; do '
        '[ "$p" != / ] || exit 1; p=$(dirname -- "$p"); done'
    )
    running = {}
    for what, path in paths.items():
        with contextlib.suppress(OSError):
            running[what] = subprocess.Popen(
                ["sh", "-c", script, "sh", path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # to end it and its children as one
            )
    deadline = time.monotonic() + STAT_S
    found = {}
    for what, process in running.items():
        try:
            said = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=0.5)  # in vain while the kernel waits
            continue
        lines = said[0].decode(errors="replace").splitlines()
        numbers = lines[-1].split() if len(lines) > 1 else []
        if len(numbers) == 3:
            block, blocks, free = (int(number) for number in numbers)
            found[what] = {
                "path": lines[0],
                "total": block * blocks,
                "free": block * free,
            }
    return found


def main() -> None:
    """Answer one request, ``{"limit_s": 60}``, on standard output."""
    request = json.loads(sys.stdin.buffer.readline().decode())
    signal.alarm(request["limit_s"])  # whoever asked has gone by then
    threading.Thread(target=end_with_input, daemon=True).start()
    answer = collect()
    sys.stdout.write("\n" + MARK + json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)  # without waiting for what a file server left hanging


def end_with_input() -> None:
    """Whoever asked has gone."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
