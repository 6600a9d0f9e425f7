"""How a bundle is cut into parts and described. Pure."""

from __future__ import annotations

import re

from packaging.version import Version

from lemnos.engines.environments.builds import Target
from lemnos.errors import UsageError
from lemnos.spec.base import Value

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


class Part(Value):
    """A file of the bundle's directory."""

    path: str
    size: int
    sha256: str


class BundledFile(Value):
    """A file that the bundle brings, out of its parts in order."""

    path: str
    """``wheels/NAME.whl``, ``uv``, ``models/...``."""
    size: int
    parts: tuple[Part, ...]


class Manifest(Value):
    """``manifest.json``: written last, so that a directory without it is no bundle."""

    format: int = 1
    request: str
    """``vllm==0.26.0``."""
    architecture: str
    glibc: str
    """The least that the wheels need."""
    python: str
    """The Python's minor version that the wheels are for."""
    packages: tuple[str, ...]
    """``name==version`` of each."""
    files: tuple[BundledFile, ...]
    model: str | None = None
    """Its directory below the store's, if one is brought."""
    created: float


def unfit(manifest: Manifest, target: Target) -> str | None:
    """Why a bundle's wheels are not for a machine; None: they are."""
    if manifest.architecture != target.architecture:
        return f"the bundle is for {manifest.architecture}, this machine is {target.architecture}"
    if target.glibc and Version(target.glibc) < Version(manifest.glibc):
        return (
            f"the bundle needs glibc {manifest.glibc}, this machine has {target.glibc}"
        )
    return None


def size_of(text: str) -> int:
    """``2G``, ``500M``, ``1.5g`` (decimal), in bytes. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    size = int(float(found[1]) * UNITS[found[2]]) if found else 0
    if size < 1000:
        raise UsageError(f"'{text}' is no size of a part", fix="write 2G, or 500M")
    return size


def cuts(size: int, part: int) -> list[tuple[int, int]]:
    """(offset, length) of each part of a file; one of a file that is not longer than ``part``."""
    if size <= part:
        return [(0, size)]
    return [(start, min(part, size - start)) for start in range(0, size, part)]


def part_name(path: str, number: int, parts: int) -> str:
    """A part's file: the file's own name if it is the only one."""
    return path if parts == 1 else f"{path}.part{number:03}"


def pip_platforms(architecture: str, glibc: str) -> list[str]:
    """The platform tags that a machine of this architecture and glibc takes, the newest first.

    pip, told of a platform, takes that one alone (PEP 600 has what each stands for).
    """
    newest = int(glibc.split(".")[1])
    tags = [f"manylinux_2_{minor}_{architecture}" for minor in range(newest, 4, -1)]
    old = ["manylinux2014"] + (
        ["manylinux2010", "manylinux1"] if architecture == "x86_64" else []
    )
    return [*tags, *(f"{tag}_{architecture}" for tag in old), f"linux_{architecture}"]


def uv_platform(architecture: str, glibc: str) -> str:
    """uv's name of the platform; it knows no older one than glibc 2.28 that engines need."""
    minor = max(28, int(glibc.split(".")[1]))
    known = [28, *range(31, 41)]
    return f"{architecture}-manylinux_2_{max(each for each in known if each <= minor)}"


def platform_named(text: str) -> str:
    """``linux/aarch64`` or ``aarch64`` (or Docker's ``linux/arm64``): the architecture."""
    name = text.strip().lower().removeprefix("linux/")
    name = {"arm64": "aarch64", "amd64": "x86_64"}.get(name, name)
    if name not in ("x86_64", "aarch64"):
        raise UsageError(
            f"'{text}' is no platform", fix="write linux/x86_64 or linux/aarch64"
        )
    return name
