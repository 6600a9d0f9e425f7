"""One file over HTTP: resumed where it stopped, checked, and moved into place whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from lemnos.errors import LemnosError
from lemnos.models.progress import Progress

ATTEMPTS = 6
"""Tries in a row without a new byte before a download is given up."""
CHUNK = 1 << 20
LONGEST_WAIT_S = 60.0


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be downloaded."""

    path: str
    """Relative to the model's directory."""
    size: int
    url: str
    sha256: str | None = None
    git_oid: str | None = None
    """SHA-1 as git computes it, for small files that are not in LFS."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    """For the request; may hold a token, so not shown."""


def fetch(
    http: httpx2.Client,
    file: RemoteFile,
    directory: Path,
    progress: Progress,
) -> None:
    """Have ``file`` whole and checked in ``directory``.

    What arrived stays in ``NAME.part`` until it is whole, so that a later call goes on
    there, also after a SIGKILL. A file of the wrong content is fetched once more, then
    refused. Raises LemnosError; the ``.part`` stays unless its content is wrong.
    """
    target = directory / file.path
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    for last_try in (False, True):
        _receive(http, file, part, progress)
        if matches(part, file):
            _settle(part, target)
            return
        part.unlink()
        if last_try:
            raise LemnosError(
                f"{file.path} came with the wrong content twice (its hash is not the hub's)",
                where=file.url,
                fix="a proxy may change it; try another network, or report it to the hub",
            )
        progress.note(f"{file.path}: wrong content, fetching it again")


def matches(path: Path, file: RemoteFile) -> bool:
    """Whether size and hash of ``path`` are those of ``file``."""
    if path.stat().st_size != file.size:
        return False
    if file.sha256:
        return hash_of(path, "sha256") == file.sha256
    if file.git_oid:
        # https://git-scm.com/book/en/v2/Git-Internals-Git-Objects: a header, then the content
        return hash_of(path, "sha1", f"blob {file.size}\0".encode()) == file.git_oid
    return True


def hash_of(path: Path, algorithm: str, head: bytes = b"") -> str:
    """The hex digest of ``head`` and the file's content."""
    with path.open("rb") as handle:
        digest = hashlib.new(algorithm, head)
        while data := handle.read(CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _receive(
    http: httpx2.Client,
    file: RemoteFile,
    part: Path,
    progress: Progress,
) -> None:
    """Bring ``part`` to the file's full size, over as many requests as it takes."""
    have = _size(part)
    if have > file.size:
        part.unlink()
        have = 0
    progress.start(file.path, file.size, have)
    failures = 0
    while _size(part) < file.size or not part.exists():
        before = _size(part)
        wait = _one_request(http, file, part, progress)
        if wait is None:
            continue
        failures = failures + 1 if _size(part) == before else 1
        if failures >= ATTEMPTS:
            raise LemnosError(
                f"{file.path}: the download broke off {ATTEMPTS} times in a row",
                where=file.url,
                fix="run it again: it goes on where it stopped",
            )
        time.sleep(min(max(wait, 2.0 ** (failures - 1)), LONGEST_WAIT_S))


def _one_request(
    http: httpx2.Client, file: RemoteFile, part: Path, progress: Progress
) -> float | None:
    """One request for what is missing; None when it went well, else seconds to wait at least."""
    have = _size(part)
    headers = {**file.headers, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        with http.stream(
            "GET", file.url, headers=headers, follow_redirects=True
        ) as answer:
            if answer.status_code in (429, 500, 502, 503, 504):
                return _retry_after(answer)
            if answer.status_code == 416:
                part.unlink(missing_ok=True)
                return 0.0
            if answer.status_code not in (200, 206):
                raise _refused(answer, file)
            resumes = answer.status_code == 206
            with _disk_errors(part), part.open("ab" if resumes else "wb") as out:
                for (
                    data
                ) in answer.iter_bytes():  # as it comes: nothing is lost in a cut
                    out.write(data)
                    progress.advance(len(data))
    except httpx2.HTTPError:
        return 0.0
    return None if _size(part) >= file.size else 0.0


def _retry_after(answer: httpx2.Response) -> float:
    value = answer.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else 0.0


def _refused(answer: httpx2.Response, file: RemoteFile) -> LemnosError:
    code = answer.status_code
    fix = {
        401: "set HF_TOKEN (or MODELSCOPE_API_TOKEN) to a token that may read it",
        403: "accept the model's licence on its page, and set a token that may read it",
        404: "the file is gone from the hub: choose another revision",
    }.get(code, "try again later")
    return LemnosError(f"{file.path}: the hub answered {code}", where=file.url, fix=fix)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise LemnosError(
            f"the disk is full ({error.strerror})",
            where=str(path.parent),
            fix="free some space (`lemnos models prune`), or set LEMNOS_MODELS to another "
            "disk; then run it again: it goes on where it stopped",
        ) from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _settle(part: Path, target: Path) -> None:
    """On disk for good, then under its name."""
    with part.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(part, target)
