"""What an engine's environment depends on, read on the machine itself.

Also sent over SSH and run by whatever ``python3`` is there (see ``hardware/collect.py``): the
standard library of Python 3.6 only. Requests come a line each, ``{"do": "facts"}``; answers go
back a line each.
"""
# ruff: noqa: UP006, UP035, UP036, UP045

import contextlib
import glob
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional

MARK = "lemnos-answer "
ASK_S = 10.0
DAY_S = 24 * 3600


def facts() -> Dict[str, Any]:
    """The machine's."""
    root = engines_dir()
    return {
        "architecture": platform.machine(),
        "glibc": glibc(),
        "root": root,
        "free": least_free([root, cache_dir()]),
        "pythons": pythons(),
        "uvs": uvs(root),
    }


def glibc() -> Optional[str]:
    """``2.36``; None where the C library is another one."""
    try:
        name = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return None
    return name.split(" ")[1] if name.startswith("glibc ") else None


def engines_dir() -> str:
    """Where environments are: ``LEMNOS_ENGINES``, or below ``LEMNOS_HOME`` or the XDG data
    directory; a directory for each architecture, since file systems are shared between them."""
    env = os.environ
    if env.get("LEMNOS_ENGINES"):
        base = os.path.abspath(os.path.expanduser(env["LEMNOS_ENGINES"]))
    elif env.get("LEMNOS_HOME"):
        base = os.path.abspath(os.path.expanduser(env["LEMNOS_HOME"])) + "/engines"
    else:
        data = env.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        base = os.path.join(data, "lemnos/engines")
    return os.path.join(base, platform.machine())


def cache_dir() -> str:
    """uv's cache, which wheels are unpacked in."""
    env = os.environ
    cache = env.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return env.get("UV_CACHE_DIR") or os.path.join(cache, "uv")


def least_free(paths: List[str]) -> Optional[int]:
    """Bytes free on the fullest of the file systems of ``paths``; None: not one can be asked."""
    found = []
    for path in paths:
        while not os.path.isdir(path) and path not in ("/", ""):
            path = os.path.dirname(path)
        with contextlib.suppress(OSError):
            stat = os.statvfs(path or ".")
            found.append(stat.f_bavail * stat.f_frsize)
    return min(found) if found else None


def pythons() -> List[str]:
    """Versions of the Pythons on PATH, the machine's own ``python3`` first."""
    names = ["python3"] + [f"python3.{minor}" for minor in range(15, 8, -1)]
    code = "import platform as p; print(p.python_version())"
    with ThreadPoolExecutor(
        len(names)
    ) as pool:  # a name may be a slow shim for nothing
        said = list(pool.map(lambda name: ask([name, "-c", code]), names))
    said += managed_pythons()
    return [v for place, v in enumerate(said) if v and v not in said[:place]]


def managed_pythons() -> List[str]:
    """Versions of the Pythons that uv has fetched, the newest first."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    where = os.environ.get("UV_PYTHON_INSTALL_DIR") or os.path.join(data, "uv/python")
    names = os.listdir(where) if os.path.isdir(where) else []
    found = [re.match(r"cpython-(\d+)\.(\d+)\.(\d+)-linux-", name) for name in names]
    versions = sorted({tuple(map(int, f.groups())) for f in found if f}, reverse=True)
    return [".".join(map(str, version)) for version in versions]


def uvs(root: str) -> List[List[str]]:
    """(version, path) of each uv here: on PATH, where its installer puts it, where lemnos does."""
    tools = os.path.join(os.path.dirname(root), "tools")
    copied = sorted(os.listdir(tools), reverse=True) if os.path.isdir(tools) else []
    paths = [shutil.which("uv"), os.path.expanduser("~/.local/bin/uv")]
    paths += [os.path.join(tools, name) for name in copied]
    found = []
    for path in paths:
        said = ask([path, "--version"]) if path and os.path.isfile(path) else ""
        if said.startswith("uv "):
            found.append([said.split()[1], str(path)])
    return found


def ask(words: List[str]) -> str:
    """What a command prints; nothing where it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=ASK_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


def leave(token: str) -> str:
    """Leave a file by which other machines see whether they share this directory.

    Gives why that cannot be; nothing where it was done. Such files of yesterday go.
    """
    root = engines_dir()
    try:
        os.makedirs(root, exist_ok=True)
        with open(os.path.join(root, token), "w"):
            pass
        for old in glob.glob(os.path.join(root, ".host.*")):
            if os.path.getmtime(old) < time.time() - DAY_S:
                take_away(os.path.basename(old))
    except OSError as error:
        return f"cannot write in {root} ({error.strerror})"
    return ""


def seen(tokens: List[str]) -> List[str]:
    """Which of the files that machines left are here too.

    Each is asked for by name: a file server's listing may be a minute old.
    """
    return [t for t in tokens if os.path.exists(os.path.join(engines_dir(), t))]


def take_away(token: str) -> None:
    """Remove the file again."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(engines_dir(), token))


def main() -> None:
    """Answer requests until the input ends. The first line is the caller's limit."""
    for line in sys.stdin:
        request = json.loads(line)
        do = request.get("do")
        answer = None  # type: Any
        if do == "facts":
            answer = facts()
        elif do == "leave":
            answer = leave(request["token"])
        elif do == "seen":
            answer = seen(request["tokens"])
        elif do == "take away":
            take_away(request["token"])
        sys.stdout.write("\n" + MARK + json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
