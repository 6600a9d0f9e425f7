"""A container's first process: ``python contain.py`` reads what to run as one line of JSON from its input.

``{"argv", "env", "mounts": [[source, target], ...], "hidden": root}``. Ends as the command did (128 and the signal's number for
one that was killed), and with it all that it started, wherever that went: it is their reaper. A line ``term``
signals the command; the input's end kills everything, so that nothing outlives the bed.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
from pathlib import Path

MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000  # sys/mount.h
CLONE_NEWNS = 0x00020000
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Run the command to its end."""
    # Unbuffered: a signal may follow at once.
    told = json.loads(open(0, "rb", buffering=0, closefd=False).readline())
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    child = os.fork()
    if child == 0:
        become(told)
    code = None
    while code is None:
        ready, _, _ = select.select([0, wakes], [], [])
        if 0 in ready:
            if os.read(0, 4096):
                os.kill(child, signal.SIGTERM)
            else:
                break
        if wakes in ready:
            os.read(wakes, 4096)
            code = ended(child)
    signal.set_wakeup_fd(-1)
    kill_all(child if code is None else 0)
    code = 137 if code is None else code
    os._exit(code)


def ended(child: int) -> int | None:
    """How the command ended; whatever else did is reaped, too."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0
        if pid == 0:
            return None
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def kill_all(first: int) -> None:
    """Until nothing is left below this process."""
    while True:
        for pid in below(os.getpid()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def below(pid: int) -> list[int]:
    try:
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    children = [int(word) for word in words]
    return children + [each for child in children for each in below(child)]


def become(told: dict[str, object]) -> None:
    """Turn into the command, in a session and a view of the files of its own."""
    argv, env = told["argv"], told["env"]
    assert isinstance(argv, list) and isinstance(env, dict)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.closerange(3, 256)
    try:
        mounts = told.get("mounts")
        if isinstance(mounts, list) and mounts:
            see([(a, b) for a, b in mounts], str(told["hidden"]))
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error}\n".encode())
    os._exit(127)


def see(mounts: list[tuple[str, str]], root: str) -> None:
    """This machine's files, with ``mounts`` where they say; nothing is made outside ``root``."""
    if LIBC.unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    os.makedirs(root, exist_ok=True)
    mount("tmpfs", root, "tmpfs", 0)
    targets = {Path(target): Path(source) for source, target in mounts}
    show(Path("/"), Path(root), targets)
    os.chroot(root)
    os.chdir("/")


def show(at: Path, root: Path, targets: dict[Path, Path]) -> None:
    """The directory ``at`` below ``root``: what this machine has there, and what is mounted."""
    here = Path(f"{root}{at}") if str(at) != "/" else root
    ahead = {t.relative_to(at).parts[0] for t in targets if at in t.parents}
    own = set(os.listdir(at)) if at.is_dir() else set()
    for name in sorted(own | ahead):
        path, shown = at / name, here / name
        if path in targets:
            bind(targets[path], shown)
        elif any(path in target.parents for target in targets):
            shown.mkdir()
            show(path, root, targets)
        elif path.is_symlink():
            shown.symlink_to(os.readlink(path))
        elif path.exists():
            bind(path, shown)


def bind(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    mount(str(source), str(target), None, MS_BIND | MS_REC)


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    words = (source.encode(), target.encode(), kind.encode() if kind else None)
    if LIBC.mount(*words, flags, None):
        raise OSError(ctypes.get_errno(), f"mount {target}")


if __name__ == "__main__":
    main()
