"""The first process of a testbed's host: ``python init.py SETTINGS.json``, in namespaces of its own.

It makes the place look like a machine, says ``up``, waits to be told that its network is
there, starts its services, says ``ready``, and from then on buries the dead, as a machine's
first process does. When it is killed, all of the host is.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any


def main(settings: dict[str, Any]) -> None:
    """Settings: ``name``; ``root``, a system's directory, or null for this machine's as it is;
    ``over``, a directory for its changes; ``shared``: what it sees of this machine, too;
    ``files``: what to put over what; ``freezer``: whether to mount that cgroup tree;
    ``services``: commands that return when they serve; ``systemd``: whether to become it."""
    socket.sethostname(settings["name"])
    if settings["root"]:
        change_root(Path(settings["root"]), Path(settings["over"]), settings["shared"])
    else:
        mount("-t", "proc", "proc", "/proc")
    mount("-t", "sysfs", "sysfs", "/sys")  # its /sys/class/net is this network's
    if settings["systemd"]:
        mount("-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    elif settings["freezer"]:
        mount("-t", "tmpfs", "tmpfs", "/sys/fs/cgroup")
        os.mkdir("/sys/fs/cgroup/freezer")
        mount("-t", "cgroup", "-o", "freezer", "cgroup", "/sys/fs/cgroup/freezer")
    for directory, mode in (("/run", "755"), ("/dev/shm", "1777")):
        mount("-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", directory)
    Path("/run/lemnos-bed").touch()
    for source, target in settings["files"].items():
        if settings["root"]:
            make_alike(Path(source), Path(target))
        mount("--bind", source, target)
    say("up")
    sys.stdin.readline()
    for command in settings["services"]:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    say("ready")
    become_systemd() if settings["systemd"] else bury()


def change_root(root: Path, over: Path, shared: list[str]) -> None:
    """Another system's files, as they are, with room for changes; of this one only ``shared``."""
    for name in ("changes", "work", "root"):
        (over / name).mkdir(exist_ok=True)
    layers = f"lowerdir={root},upperdir={over}/changes,workdir={over}/work"
    new = over / "root"
    mount("-t", "overlay", "overlay", "-o", layers, str(new))
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{new}/tmp")
    fill_dev(new / "dev")
    for path in shared:
        there = new / path[1:]
        make_alike(Path(path), there)
        mount("--bind", path, str(there))
    subprocess.run(["pivot_root", str(new), f"{new}/mnt"], check=True)
    os.chdir("/")
    mount("-t", "proc", "proc", "/proc")  # umount wants one
    subprocess.run(["umount", "--lazy", "/mnt"], check=True)


def fill_dev(dev: Path) -> None:
    """The devices that every system has, and terminals of its own."""
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(dev))
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        (dev / name).touch()
        mount("--bind", f"/dev/{name}", f"{dev}/{name}")
    for name in ("shm", "pts"):
        (dev / name).mkdir()
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=666", "devpts", f"{dev}/pts")
    for name, target in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("console", "null"),
    ):
        (dev / name).symlink_to(target)


def become_systemd() -> None:
    """Let it take over, with nothing of the machine's own in its reach."""
    mount("--bind", "/proc/sys", "/proc/sys")
    for directory in ("/sys", "/proc/sys"):
        mount("-o", "remount,bind,ro", directory)
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execve("/lib/systemd/systemd", ["systemd"], {"container": "lemnos", "PATH": os.environ["PATH"]})  # fmt: skip


def make_alike(source: Path, target: Path) -> None:
    """An empty file or directory, so that ``source`` can be mounted there."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir() if source.is_dir() else target.touch()


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def bury() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        signal.sigwait([signal.SIGCHLD])


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
