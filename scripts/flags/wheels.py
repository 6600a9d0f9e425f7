"""Read single files out of a release's wheel, without downloading the wheel.

pip, with the user's own index settings, says where the wheel lies; HTTP range requests fetch
its table of contents and the members that are asked for. A server that does not answer ranges
costs a whole download, deleted afterwards.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

PLATFORMS = (
    "manylinux1",
    "manylinux2014",
    *(f"manylinux_2_{n}" for n in range(17, 42)),
)
CHUNK = 256 * 1024  # a request costs more than its bytes below this


class Release:
    """The files of one release: ``read(path)`` gives a text, None where there is no such file.

    Texts are kept in ``cache``/name-version, where a later run finds them.
    """

    def __init__(self, package: str, version: str, cache: Path) -> None:
        self.package = package
        self.version = version
        self._kept = cache / f"{package}-{version}"
        self._kept.mkdir(parents=True, exist_ok=True)

    def read(self, path: str) -> str | None:
        """The text of a file of the wheel, or None."""
        kept = self._kept / path
        if kept.is_file():
            return kept.read_text()
        if path not in self.names:
            return None
        text = self._wheel.read(path).decode()
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text)
        return text

    @cached_property
    def names(self) -> frozenset[str]:
        """Every file of the wheel."""
        kept = self._kept / ".names"
        if not kept.is_file():
            kept.write_text("\n".join(self._wheel.namelist()))
        return frozenset(kept.read_text().splitlines())

    @property
    def metadata(self) -> str:
        """The METADATA file: what the package requires."""
        name = next(n for n in self.names if n.endswith(".dist-info/METADATA"))
        return self.read(name) or ""

    @cached_property
    def _wheel(self) -> zipfile.ZipFile:
        url = wheel_url(self.package, self.version)
        return zipfile.ZipFile(_Ranges(url))


def wheel_url(package: str, version: str) -> str:
    """Where pip would fetch the wheel from; nothing is installed.

    Raises SystemExit with pip's own words if the index has no such wheel.
    """
    for python in ("3.12", "3.11", "3.10"):
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"]
        command += ["--report", "-", "--no-deps", "--ignore-installed"]
        command += ["--only-binary", ":all:", "--python-version", python]
        for platform in PLATFORMS:
            command += ["--platform", f"{platform}_x86_64"]
        with tempfile.TemporaryDirectory() as nowhere:
            command += ["--target", nowhere, f"{package}=={version}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            report = json.loads(done.stdout)
            return str(report["install"][0]["download_info"]["url"])
    sys.exit(f"pip finds no wheel of {package} {version}:\n{done.stderr[-800:]}")


class _Ranges(io.RawIOBase):
    """A file at a URL, read where it is asked for, in chunks that are kept."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._place = 0
        self._chunks: dict[int, bytes] = {}
        with urllib.request.urlopen(_request(url, "bytes=0-0")) as answer:
            if answer.status == 206:
                self._size = int(answer.headers["Content-Range"].rpartition("/")[2])
                return
        self._whole(url)

    def _whole(self, url: str) -> None:
        with tempfile.TemporaryFile() as scratch:
            with urllib.request.urlopen(url) as answer:
                while block := answer.read(CHUNK):
                    scratch.write(block)
            self._size = scratch.tell()
            scratch.seek(0)
            for number in range(0, self._size // CHUNK + 1):
                self._chunks[number] = scratch.read(CHUNK)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}
        self._place = max(0, start[whence] + offset)
        return self._place

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._size, self._place + size)
        if end <= self._place:
            return b""
        first, last = self._place // CHUNK, (end - 1) // CHUNK
        missing = [n for n in range(first, last + 1) if n not in self._chunks]
        if missing:
            self._fetch(missing[0], missing[-1])
        data = b"".join(self._chunks[n] for n in range(first, last + 1))
        found = data[self._place - first * CHUNK : end - first * CHUNK]
        self._place = end
        return found

    def _fetch(self, first: int, last: int) -> None:
        end = min(self._size, (last + 1) * CHUNK) - 1
        request = _request(self._url, f"bytes={first * CHUNK}-{end}")
        data = _retried(lambda: _body(request))
        for number in range(first, last + 1):
            at = (number - first) * CHUNK
            self._chunks[number] = data[at : at + CHUNK]


def _request(url: str, wanted: str) -> urllib.request.Request:
    return urllib.request.Request(url, headers={"Range": wanted})


def _body(request: urllib.request.Request) -> bytes:
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def _retried(call: Callable[[], bytes]) -> bytes:
    for _ in range(2):
        try:
            return call()
        except OSError:
            continue
    return call()
