"""Who may do a thing alone: a lease is a file that its holder keeps fresh.

Leases work where locks do not: on NFS, Lustre and GPFS, and between hosts. A lease
is taken by creating a file exclusively. It is stale, and may be taken over, when its
holder was a process of this host that is gone, or when the file has not been touched
for ``TTL_S``. Ages are measured by the file system's own clock (the time it gives to a
file written now), so hosts whose clocks differ agree.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lemnos.errors import LemnosError

TTL_S = 60.0
"""A lease that nobody touched for so long is stale; holders touch theirs every TTL_S / 6."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease: ``started`` tells it from a later one with the same pid."""

    host: str
    pid: int
    started: str
    nonce: str
    what: str = ""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (self.what and f" ({self.what})")


def process_started(pid: int) -> str | None:
    """What tells the live process ``pid`` from all others that have or had its number.

    It is this boot's id and the clock ticks from then to the process's start, neither of
    which changes when the clock is set. None if there is no such live process to be seen.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = stat.rpartition(b")")[2].split()  # after the name, which may hold anything
    state, ticks = fields[0], fields[19]  # fields 3 and 22 of proc(5)
    return None if state in b"ZX" else f"{boot}.{ticks.decode()}"


@contextlib.contextmanager
def lease(
    path: Path,
    *,
    what: str = "",
    wait_s: float = 0.0,
    waiting: Callable[[Holder], None] | None = None,
) -> Iterator[Holder]:
    """Hold the lease at ``path`` for the body; wait at most ``wait_s`` seconds for it.

    ``waiting`` is called once with the present holder when there is something to wait
    for. Raises LemnosError naming the holder when the wait is over, or saying why no
    lease can be made there.
    """
    me = _take(path, what, wait_s, waiting)
    done = threading.Event()
    keeper = threading.Thread(target=_keep_fresh, args=(path, me, done), daemon=True)
    keeper.start()
    try:
        yield me
    finally:
        done.set()
        keeper.join()
        _discard(path, me)


def read(path: Path) -> Holder | None:
    """The present holder, or None if there is no lease (or only a broken file)."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def holder_alive(path: Path) -> bool:
    """Whether somebody holds the lease at ``path`` now: it is there, and not stale."""
    return path.exists() and not _stale(path, read(path))


def _take(
    path: Path,
    what: str,
    wait_s: float,
    waiting: Callable[[Holder], None] | None,
) -> Holder:
    me = Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        started=process_started(os.getpid()) or "",
        nonce=uuid.uuid4().hex,
        what=what,
    )
    deadline = time.monotonic() + wait_s
    told = False
    while not _create(path, me):
        holder = read(path)
        if _stale(path, holder):
            _discard(path, holder)
            continue
        if time.monotonic() >= deadline:
            raise LemnosError(
                f"held by {holder or 'another process'}",
                where=str(path),
                fix="wait for it, or stop it",
            )
        if waiting and holder and not told:
            waiting(holder)
            told = True
        time.sleep(0.1)
    return me


def _create(path: Path, me: Holder) -> bool:
    """Make the file, complete from its first moment: written aside, then linked into place."""
    aside = path.with_name(f".{path.name}.{me.nonce}")
    try:
        aside.write_text(json.dumps(asdict(me)))
        os.link(aside, path)
        return True
    except FileExistsError:
        # NFS may say so of the very link that it made; the count of links does not lie.
        return aside.stat().st_nlink == 2
    except OSError as error:
        raise LemnosError(
            f"no lease can be made here ({error.strerror})",
            where=str(path),
            fix="lemnos needs a directory of yours on a file system with hard links",
        ) from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _stale(path: Path, holder: Holder | None) -> bool:
    if holder and holder.host == socket.gethostname() and not _hidden(holder.pid):
        return process_started(holder.pid) != holder.started
    try:
        return _now_there(path.parent) - path.stat().st_mtime > TTL_S
    except FileNotFoundError:
        return False


def _hidden(pid: int) -> bool:
    """Whether ``pid`` lives but /proc does not show it, as login nodes hide other users'."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return not Path(f"/proc/{pid}").exists()
    except OSError:
        return False
    return False


def _now_there(directory: Path) -> float:
    """The time by the file system's clock: what it stamps on a file written now."""
    probe = directory / f".clock.{uuid.uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _discard(path: Path, judged: Holder | None) -> None:
    """Remove the lease that was judged (stale, or done with), and no other that took its place.

    Only one process of this host does so at a time, which makes it certain; between hosts
    the file is moved aside, looked at, and put back if it was another.
    """
    with contextlib.suppress(FileNotFoundError), _alone_in(path.parent):
        if read(path) != judged:
            return
        aside = path.with_name(f".{path.name}.stale.{uuid.uuid4().hex}")
        os.rename(path, aside)
        if read(aside) != judged:
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """The kernel's lock on ``directory`` for the body, where its file system has locks."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _keep_fresh(path: Path, me: Holder, done: threading.Event) -> None:
    while not done.wait(TTL_S / 6):
        now = read(path)
        if now and now != me:
            return  # another host took it: this process was asleep for too long
        with contextlib.suppress(OSError):
            os.utime(path)
