"""How fast files are read, past the page cache: a script that is run here, or sent over SSH.

As ``collect.py``: the standard library, and Python 3.6.
"""
# ruff: noqa: UP006, UP035, UP036, UP045

import contextlib
import json
import mmap
import os
import signal
import sys
import threading
import time
from typing import Any, Dict, List, Optional, Tuple

MARK = "lemnos-answer "

READ_S = 3.0
READ_MOST = 8 << 30
WRITE_MOST = 1 << 30
CHUNK = 16 << 20
READERS = 4  # one stream does not fill a parallel file system


def measure(paths: List[str]) -> Dict[str, Any]:
    """``path -> [bytes a second or None, why not or None]``."""
    return {path: read_speed(path) for path in paths}


def read_speed(directory: str) -> Tuple[Optional[float], Optional[str]]:
    """Bytes a second that files there are read with past the page cache; or None and why.

    Of a model's file where there is one, else of a temporary file without a name, which
    goes away with this process.
    """
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    existing = big_file(directory)
    try:
        if existing:
            handle = os.open(existing, os.O_RDONLY)
        else:
            free = os.statvfs(directory)
            if free.f_bavail * free.f_frsize < 2 * WRITE_MOST:
                return None, "too little is free for a trial file"
            handle = temporary(directory)
    except OSError as error:
        return None, f"{error.strerror} ({directory})"
    try:
        return timed_read(handle), None
    except OSError as error:
        return None, str(error.strerror)
    finally:
        os.close(handle)


def big_file(directory: str) -> Optional[str]:
    """A weights file of over 512 MiB below ``directory``, looked for 2 s at most."""
    deadline = time.monotonic() + 2
    for where, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(where, name)
            if name.endswith((".safetensors", ".gguf")):
                with contextlib.suppress(OSError):
                    if os.path.getsize(path) > 512 << 20 and os.access(path, os.R_OK):
                        return path
        if time.monotonic() > deadline:
            return None
    return None


def temporary(directory: str) -> int:
    """A file of 1 GiB (or what 10 s write) that no directory names any more."""
    path = os.path.join(directory, f".lemnos-probe-{os.getpid()}")
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    block = os.urandom(1 << 20) * 16  # what compresses would be read too fast
    deadline = time.monotonic() + 10
    for _ in range(WRITE_MOST // len(block)):
        os.write(handle, block)
        if time.monotonic() > deadline:
            break
    os.fsync(handle)
    return handle


def timed_read(handle: int) -> float:
    """Bytes a second, by several readers, each past the page cache if it can."""
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    size = min(os.fstat(handle).st_size, READ_MOST)
    direct = True
    try:  # O_DIRECT through /proc: the file may have no name any more
        past_cache = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECT)
    except OSError:
        direct = False
        past_cache = os.dup(handle)
    counts = [0] * READERS
    problems: List[OSError] = []
    deadline = time.monotonic() + READ_S

    def reader(number: int) -> None:
        memory = mmap.mmap(-1, CHUNK)  # aligned to pages, as O_DIRECT demands
        at = number * CHUNK
        try:
            while at < size and time.monotonic() < deadline:
                if sys.version_info >= (3, 7):
                    counts[number] += os.preadv(past_cache, [memory], at)
                else:
                    counts[number] += len(os.pread(past_cache, CHUNK, at))
                at += READERS * CHUNK
        except OSError as error:
            problems.append(error)

    began = time.monotonic()
    readers = [threading.Thread(target=reader, args=(i,)) for i in range(READERS)]
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join()
    elapsed = time.monotonic() - began
    os.close(past_cache)
    if problems and direct is False or sum(counts) == 0:
        raise problems[0] if problems else OSError(0, "nothing could be read")
    return sum(counts) / elapsed


def main() -> None:
    """Answer one request, ``{"limit_s": 60, "paths": [...]}``, on standard output."""
    request = json.loads(sys.stdin.buffer.readline().decode())
    signal.alarm(request["limit_s"])  # whoever asked has gone by then
    threading.Thread(target=end_with_input, daemon=True).start()
    answer = measure(request["paths"])
    sys.stdout.write("\n" + MARK + json.dumps(answer) + "\n")
    sys.stdout.flush()
    os._exit(0)


def end_with_input() -> None:
    """Whoever asked has gone."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
