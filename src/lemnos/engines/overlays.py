"""Patches of a user's to an engine's files, applied to a copy: the installed files stay as they are.

A patch is a unified diff whose text names, before the diff, the content that each file must have::

    # lemnos: sha256 0b1c... vllm/entrypoints/chat_utils.py
    --- a/vllm/entrypoints/chat_utils.py
    +++ b/vllm/entrypoints/chat_utils.py
    @@ -1210,3 +1210,3 @@
    ...

A file of any other content is not patched: the patch was made for another version. So hunks need no
searching, and no patch program: their lines are where they say, or the patch is wrong.

The copy of a package has directories of its own only on the way to a patched file; beside them
everything is a link into the environment. Its directory comes first in PYTHONPATH, which the
engine's workers inherit. In a container, where the package has one known place, the patched files
are mounted over the image's (``mounts``), after ``check_script`` has compared the image's own.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lemnos import leases
from lemnos.errors import LemnosError, UsageError

_SUM = re.compile(r"^#?\s*lemnos:\s+sha256\s+([0-9a-f]{64})\s+(\S+)\s*$")
_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True)
class Hunk:
    """Lines to replace: ``start`` counts from 0 in the old file; lines keep their ends."""

    start: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]


@dataclass(frozen=True)
class FilePatch:
    """What becomes of one file, whose content must have this ``sha256``."""

    path: str
    """Below site-packages: ``vllm/entrypoints/chat_utils.py``."""
    sha256: str
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True)
class Patch:
    """A patch of one or more files."""

    name: str
    files: tuple[FilePatch, ...]
    sha256: str
    """Of its text."""


@dataclass(frozen=True)
class Step:
    """One thing to make in an overlay: a directory, a link into site-packages, or a patched file."""

    kind: str
    """``directory``, ``link`` or ``patched``."""
    path: str


# ---------------------------------------------------------------- pure


def read_patch(text: bytes, name: str) -> Patch:
    """A patch's text. Raises UsageError with the line that is wrong."""
    lines = _lines(text)
    sums: dict[str, str] = {}
    found: list[FilePatch] = []
    at = 0
    while at < len(lines):
        if said := _SUM.match(_plain(lines[at])):
            sums[said[2]] = said[1]
        elif lines[at].startswith(b"--- ") and _next(lines, at).startswith(b"+++ "):
            path = _path(lines[at], lines[at + 1], f"{name}:{at + 1}")
            hunks, at = _hunks(lines, at + 2, name)
            if path not in sums:
                raise UsageError(
                    f"does not say which content {path} must have",
                    where=name,
                    fix=f"write above the diff: # lemnos: sha256 SUM {path}",
                )
            found.append(FilePatch(path, sums[path], hunks))
            continue
        at += 1
    if not found:
        raise UsageError(
            "holds no unified diff", where=name, fix="make it with `diff -u`"
        )
    paths = [each.path for each in found]
    if len(set(paths)) < len(paths):
        raise UsageError("patches a file twice", where=name)
    return Patch(name, tuple(found), hashlib.sha256(text).hexdigest())


def apply(content: bytes, patch: FilePatch) -> bytes:
    """The patched content. Raises LemnosError: another content than expected, or a wrong hunk."""
    found = hashlib.sha256(content).hexdigest()
    if found != patch.sha256:
        raise LemnosError(_another(patch, found), where=patch.path)
    lines = _lines(content)
    out: list[bytes] = []
    at = 0
    for hunk in patch.hunks:
        end = hunk.start + len(hunk.old)
        if hunk.start < at or tuple(lines[hunk.start : end]) != hunk.old:
            raise LemnosError(
                f"the patch's lines at {hunk.start + 1} are not the file's",
                where=patch.path,
                fix="the diff was edited, or its sha256 is of another file: make it again",
            )
        out += [*lines[at : hunk.start], *hunk.new]
        at = end
    return b"".join([*out, *lines[at:]])


def check_sums(patches: Iterable[Patch], found: Mapping[str, str | None]) -> None:
    """Whether every file has the content that its patch expects; ``found`` has their sha256, None
    where there is no such file. Raises LemnosError naming the first that has another; UsageError
    where two patches change one file."""
    owner: dict[str, str] = {}
    for patch in patches:
        for file in patch.files:
            if file.path in owner:
                raise UsageError(
                    f"{owner[file.path]} and {patch.name} both patch {file.path}",
                    fix="make one patch of the two",
                )
            owner[file.path] = patch.name
            if found.get(file.path) != file.sha256:
                raise LemnosError(
                    _another(file, found.get(file.path)), where=patch.name
                )


def steps(paths: Iterable[str], listing: Mapping[str, Iterable[str]]) -> list[Step]:
    """What to make so that ``paths`` are patched and all else in their packages is a link.

    ``listing`` has the names in each directory on the way to a patched file, by its path below
    site-packages.
    """
    patched = sorted(set(paths))
    ways = sorted({way for path in patched for way in _ways(path)})
    made = [Step("directory", way) for way in ways]
    for way in ways:
        for name in sorted(listing[way]):
            path = f"{way}/{name}"
            if name != "__pycache__" and path not in ways and path not in patched:
                made.append(Step("link", path))
    return made + [Step("patched", path) for path in patched]


def overlay_key(patches: Iterable[Patch], environment: str) -> str:
    """The name of an overlay's directory: other patches, or another environment, give another."""
    texts = "\n".join([environment, *sorted(patch.sha256 for patch in patches)])
    return hashlib.sha256(texts.encode()).hexdigest()[:16]


def mounts(overlay: Path, patches: Iterable[Patch], site: str) -> list[tuple[str, str]]:
    """(file of the overlay, place in the container) to mount read-only, for an image whose
    packages are in ``site``."""
    paths = [file.path for patch in patches for file in patch.files]
    return [(str(overlay / path), f"{site}/{path}") for path in paths]


def check_script(patches: Iterable[Patch], site: str) -> str:
    """A shell script that fails, and says why, where an image's files are not what is expected."""
    files = [file for patch in patches for file in patch.files]
    sums = "".join(f"{file.sha256}  {site}/{file.path}\n" for file in files)
    return (
        f"printf %s {shlex.quote(sums)} | sha256sum --check --quiet || "
        "{ echo 'lemnos: a patch was made for another version of the image' >&2; exit 1; }"
    )


# ---------------------------------------------------------------- effects


def make_overlay(
    python: Path, patches: Iterable[Patch], directory: Path, environment: str
) -> Path:
    """Have the overlay of ``patches`` for the environment of ``python`` below ``directory``; its
    path, for ``env_of``. ``environment`` tells one environment from a later one at its place (its
    ``resolution``). Raises LemnosError before anything is written if a file is another one."""
    made = tuple(patches)
    site = site_packages(python)
    contents = {file.path: _content(site, file) for p in made for file in p.files}
    sums = {path: _sum(content) for path, content in contents.items()}
    check_sums(made, sums)
    home = directory / overlay_key(made, f"{python} {environment}")
    directory.mkdir(parents=True, exist_ok=True)
    with leases.lease(directory / f"{home.name}.lease", wait_s=600):
        if home.is_dir():
            return home
        partial = directory / f".{home.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        ways = {way for path in contents for way in _ways(path)}
        listing = {way: os.listdir(site / way) for way in ways}
        patched = {
            file.path: apply(contents[file.path] or b"", file)
            for p in made
            for file in p.files
        }
        for step in steps(contents, listing):
            target = partial / step.path
            if step.kind == "directory":
                target.mkdir()
            elif step.kind == "link":
                target.symlink_to(site / step.path)
            else:
                target.write_bytes(patched[step.path])
                target.chmod((site / step.path).stat().st_mode & 0o777)
        partial.rename(home)
    return home


def env_of(overlay: Path, before: str | None = None) -> dict[str, str]:
    """The variable that puts an overlay first; ``before``: what PYTHONPATH was."""
    return {"PYTHONPATH": f"{overlay}:{before}" if before else str(overlay)}


def site_packages(python: Path) -> Path:
    """Where the environment of ``python`` (``.../bin/python``) has its packages."""
    found = sorted((python.parent.parent / "lib").glob("python*/site-packages"))
    if not found:
        raise UsageError("is not an environment's Python", where=str(python))
    return found[0]


# ---------------------------------------------------------------- parts


def _hunks(lines: list[bytes], at: int, name: str) -> tuple[tuple[Hunk, ...], int]:
    """The hunks from line ``at`` on, and the line behind them."""
    hunks = []
    while at < len(lines) and (head := _HUNK.match(_plain(lines[at]))):
        olds, news = int(head[2] or 1), int(head[4] or 1)
        start = int(head[1]) - (1 if olds else 0)
        began, at = at, at + 1
        old: list[bytes] = []
        new: list[bytes] = []
        while len(old) < olds or len(new) < news:
            line = lines[at] if at < len(lines) else b""
            sign, rest = line[:1], line[1:]
            if line in (
                b"\n",
                b"\r\n",
            ):  # editors strip the space of an empty context line
                sign, rest = b" ", line
            if sign not in (b" ", b"-", b"+") or not line:
                raise UsageError(
                    "has a hunk that ends too early", where=f"{name}:{began + 1}"
                )
            if sign in b" -":
                old.append(rest)
            if sign in b" +":
                new.append(rest)
            at = _without_end(lines, at + 1, sign, old, new)
        hunks.append(Hunk(start, tuple(old), tuple(new)))
    return tuple(hunks), at


def _without_end(
    lines: list[bytes], at: int, sign: bytes, old: list[bytes], new: list[bytes]
) -> int:
    """Take the last line's end away where the diff says that it has none; the next line."""
    if not _plain(lines[at] if at < len(lines) else b"").startswith("\\ "):
        return at
    for side, signs in ((old, b" -"), (new, b" +")):
        if sign in signs:
            side[-1] = side[-1].rstrip(b"\r\n")
    return at + 1


def _path(old: bytes, new: bytes, where: str) -> str:
    """The file of a diff's head, below site-packages."""
    names = [_plain(line)[4:].split("\t")[0].strip() for line in (old, new)]
    if "/dev/null" in names:
        raise UsageError("makes or removes a file; patches change files", where=where)
    path = re.sub(r"^[ab]/", "", names[1])
    if path.startswith("/") or ".." in path.split("/") or "/" not in path:
        raise UsageError(
            f"'{path}' is no file of a package",
            where=where,
            fix="write it from site-packages on: vllm/entrypoints/chat_utils.py",
        )
    return path


def _another(file: FilePatch, found: str | None) -> str:
    if found is None:
        return f"there is no {file.path} in this environment: the patch is for another version"
    return f"{file.path} has sha256 {found}, the patch was made for {file.sha256}: another version"


def _ways(path: str) -> list[str]:
    """The directories on the way to a file, from the package on."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def _content(site: Path, file: FilePatch) -> bytes | None:
    try:
        return (site / file.path).read_bytes()
    except OSError:
        return None


def _sum(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _lines(content: bytes) -> list[bytes]:
    """Lines with their ends, as diff has them: a carriage return alone ends none."""
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def _next(lines: list[bytes], at: int) -> bytes:
    return lines[at + 1] if at + 1 < len(lines) else b""


def _plain(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r\n")
