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
    """Settings: ``name``; ``root``, another system's directory, or null; ``over``, an empty
    directory for its changes; ``shared``, what it sees of this one; ``freezer``: whether to
    mount that cgroup hierarchy; ``files``: what to put over what; ``services``: commands that
    return when they serve."""
    socket.sethostname(settings["name"])
    if settings["root"]:
        change_root(Path(settings["root"]), Path(settings["over"]), settings["shared"])
    mount("-t", "proc", "proc", "/proc")
    mount("-t", "sysfs", "sysfs", "/sys")  # its /sys/class/net is this network's
    if settings["freezer"]:
        mount("-t", "tmpfs", "tmpfs", "/sys/fs/cgroup")
        os.mkdir("/sys/fs/cgroup/freezer")
        mount("-t", "cgroup", "-o", "freezer", "cgroup", "/sys/fs/cgroup/freezer")
    for directory in ("/run", "/dev/shm"):
        mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", directory)
    Path("/run/lemnos-bed").touch()
    for source, target in settings["files"].items():
        if settings["root"] and not os.path.exists(target):
            make_alike(Path(source), Path(target))
        mount("--bind", source, target)
    say("up")
    sys.stdin.readline()
    for command in settings["services"]:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    say("ready")
    bury()


def change_root(root: Path, over: Path, shared: list[str]) -> None:
    """Another system's files, as they are, with room for changes; of this one only ``shared``."""
    mount("-t", "tmpfs", "tmpfs", str(over))
    for name in ("changes", "work", "root"):
        (over / name).mkdir()
    layers = f"lowerdir={root},upperdir={over}/changes,workdir={over}/work"
    new = over / "root"
    mount("-t", "overlay", "overlay", "-o", layers, str(new))
    for path in ("/dev", *shared):
        there = new / path[1:]
        make_alike(Path(path), there)
        mount("--rbind" if path == "/dev" else "--bind", path, str(there))
    subprocess.run(["pivot_root", str(new), f"{new}/mnt"], check=True)
    os.chdir("/")
    mount("-t", "proc", "proc", "/proc")  # umount wants one
    subprocess.run(["umount", "--lazy", "/mnt"], check=True)


def make_alike(source: Path, target: Path) -> None:
    """An empty file or directory, so that ``source`` can be mounted there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir(exist_ok=True) if source.is_dir() else target.touch()


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
