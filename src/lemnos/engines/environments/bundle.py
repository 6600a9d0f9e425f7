"""``lemnos engines bundle``: an engine's wheels, uv and a model, for machines without internet."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import ValidationError

from lemnos import paths
from lemnos.engines.environments import machine, targets, work
from lemnos.engines.environments.builds import (
    Build,
    Refusal,
    Target,
    choose_build,
    request_named,
)
from lemnos.engines.environments.bundling import (
    BundledFile,
    Manifest,
    Part,
    cuts,
    part_name,
    pip_platforms,
    platform_named,
    size_of,
    uv_platform,
)
from lemnos.engines.environments.work import Say
from lemnos.errors import LemnosError, UsageError
from lemnos.transport.ssh import Ssh

MANIFEST = "manifest.json"
OURS = ("wheels", "models", "uv")
CHUNK = 1 << 20
DAY_S = 24 * 3600


def bundle_engine(
    engine: str,
    to: Path,
    *,
    target: str | None = None,
    python: str | None = None,
    glibc: str | None = None,
    part_size: str = "2G",
    model: str | None = None,
    note: Say = lambda _: None,
) -> Manifest:
    """Write the wheels of ``engine`` and uv to the directory ``to``, in parts of ``part_size``.

    ``target`` is ``linux/aarch64`` or the like, this machine's by default; ``python`` and
    ``glibc`` are the versions there: wheels for an older glibc do on every newer one. ``model`` is one of the store's, brought along. Raises UsageError, LemnosError.
    """
    size = size_of(part_size)
    architecture = platform_named(target or platform.machine())
    build = _build(engine, architecture, python, glibc)
    minor = ".".join(build.python.split(".")[:2])
    _make_room(to)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as scratch:
        staged = Path(scratch) / "bundle"
        (staged / "wheels").mkdir(parents=True)
        pins = _download(build, minor, staged / "wheels", Path(scratch), note)
        shutil.copy(
            targets.uv_for(architecture, Path(scratch) / "tools"), staged / "uv"
        )
        home = _stage_model(model, staged) if model else None
        note("cutting into parts and hashing")
        names = sorted(p for p in staged.rglob("*") if p.is_file())
        files = tuple(_cut(path, staged, to, size) for path in names)
    manifest = Manifest(
        request=str(build.request),
        architecture=architecture,
        glibc=build.glibc,
        python=minor,
        packages=tuple(pins),
        files=files,
        model=home,
        created=time.time(),
    )
    text = manifest.model_dump_json(indent=1)
    paths.replace_file(to / MANIFEST, text.encode())
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """What a bundle holds. Raises UsageError if ``directory`` is none."""
    path = directory / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except OSError:
        raise UsageError(
            "is no bundle: it has no manifest.json",
            where=str(directory),
            fix="copy the whole directory that `lemnos engines bundle` wrote",
        ) from None
    except ValidationError as error:
        why = error.errors()[0]["msg"]
        raise UsageError(f"cannot be read: {why}", where=str(path)) from None


@contextlib.contextmanager
def joined(directory: Path, note: Say) -> Iterator[Path]:
    """A directory with the bundle's ``wheels`` and ``uv``, whole and checked, while the body runs.

    Raises LemnosError that names the part which is missing or of the wrong content.
    """
    manifest = read_manifest(directory)
    note(f"checking the parts of {directory}")
    check_parts(directory, manifest)
    root = Path(machine.engines_dir())
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root)
    with tempfile.TemporaryDirectory(dir=root, prefix=".wheels.") as scratch:
        for file in manifest.files:
            if not file.path.startswith("models/"):
                join(directory, file, _inside(Path(scratch), file.path))
        yield Path(scratch)


def _sweep(root: Path) -> None:
    """Remove what installations that were killed left a day ago."""
    for left in root.glob(".wheels.*"):
        if time.time() - left.stat().st_mtime > DAY_S:
            shutil.rmtree(left, ignore_errors=True)


def check_parts(directory: Path, manifest: Manifest) -> None:
    """Read every part. Raises LemnosError naming the first that is not what was bundled."""
    for part in (part for file in manifest.files for part in file.parts):
        path = _inside(directory, part.path)
        if not path.is_file():
            raise LemnosError(
                f"part {part.path} is missing",
                where=str(directory),
                fix="copy it again from where the bundle was written",
            )
        if path.stat().st_size != part.size or _hash(path) != part.sha256:
            raise LemnosError(
                f"part {part.path} has the wrong content ({path.stat().st_size} of "
                f"{part.size} bytes; its sha256 is not the manifest's)",
                where=str(directory),
                fix="copy it again from where the bundle was written",
            )


def join(directory: Path, file: BundledFile, target: Path) -> None:
    """A file out of its parts: a link where it is one, since parts are only read."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if len(file.parts) == 1:
        target.symlink_to(_inside(directory, file.parts[0].path).absolute())
        return
    _copy(directory, file, target)


def install_model(
    directory: Path, manifest: Manifest, hosts: Sequence[Ssh], note: Say
) -> None:
    """The bundle's model into the store, here and on ``hosts``."""
    from lemnos.models import hosts as copies
    from lemnos.models import store
    from lemnos.models.progress import Silent

    assert manifest.model
    home = _inside(paths.models_dir(), manifest.model)
    with store.alone(home, home.name, note):
        if store.load(home) is None:
            note(f"copying the model to {home}")
            with store.being_filled(home) as partial:
                for file in manifest.files:
                    if file.path.startswith("models/"):
                        name = Path(file.path).relative_to(
                            Path("models") / manifest.model
                        )
                        _copy(directory, file, _inside(partial, str(name)))
    for host in hosts:
        copies.copy_to_host(home, host, Silent())


def _build(
    engine: str, architecture: str, python: str | None, glibc: str | None
) -> Build:
    """The build for a machine of this kind; its glibc is what the wheels will be chosen for."""
    if glibc is not None and not re.fullmatch(r"2\.\d+", glibc):
        raise UsageError(
            f"'{glibc}' is no glibc", fix="write 2.35; `ldd --version` says it"
        )
    facts = machine.facts()
    own = architecture == facts["architecture"]
    target = Target(
        name=f"linux/{architecture}",
        architecture=architecture,
        glibc=glibc or (facts["glibc"] if own else None) or "2.99",
        pythons=tuple(facts["pythons"]),
    )
    build = choose_build(request_named(engine), target, python=python)
    if isinstance(build, Refusal):
        raise build.error()
    return build.model_copy(update={"glibc": glibc}) if glibc else build


def _download(
    build: Build, minor: str, wheels: Path, scratch: Path, note: Say
) -> list[str]:
    """Resolve for the target's platform, and fetch the wheels; the pins.

    uv has no command that downloads, so pip does, which uv fetches and runs.
    """
    uv = targets.uv_here()
    order = {
        "requirement": build.requirement,
        "companions": list(build.companions),
        "hint": build.hint,
        "sources": False,
    }
    compile_ = [
        uv,
        "pip",
        "compile",
        "--no-python-downloads",
        "--python-version",
        minor,
    ]
    compile_ += ["--python-platform", uv_platform(build.architecture, build.glibc)]
    note(f"resolving {build.requirement} for {build.architecture}, Python {minor}")
    pins, _ = work.resolve(compile_, order, scratch, note)
    listed = scratch / "pins.txt"
    listed.write_text("\n".join(pins) + "\n")
    note(f"downloading {len(pins)} packages")
    pip = [uv, "tool", "run", "--quiet", "--from", "pip", "pip", "download", "--quiet"]
    pip += ["--no-deps", "--only-binary", ":all:", "--disable-pip-version-check"]
    pip += ["--dest", str(wheels), "--python-version", minor, "--implementation", "cp"]
    for tag in pip_platforms(build.architecture, build.glibc):
        pip += ["--platform", tag]
    work.run([*pip, "-r", str(listed)], "download the wheels", _pips_own(os.environ))
    return pins


def _pips_own(env: os._Environ[str]) -> dict[str, str]:
    """uv's index settings under the names that pip reads them by. As variables: they may hold
    a password, which a command line would show."""
    names = {
        "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
        "UV_INDEX_URL": "PIP_INDEX_URL",
        "UV_INDEX": "PIP_EXTRA_INDEX_URL",
        "UV_EXTRA_INDEX_URL": "PIP_EXTRA_INDEX_URL",
        "UV_FIND_LINKS": "PIP_FIND_LINKS",
    }
    return {pip: env[uv] for uv, pip in names.items() if env.get(uv)}


def _stage_model(name: str, staged: Path) -> str:
    """Links to the files of a model of the store; its directory below the store's."""
    from lemnos.models import store

    home = store.home_path(store.find(name))
    below = home.relative_to(paths.models_dir())
    for path in sorted(p for p in home.rglob("*") if p.is_file()):
        link = staged / "models" / below / path.relative_to(home)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return str(below)


def _make_room(to: Path) -> None:
    """``to`` as an empty directory; an earlier bundle in it goes. Raises UsageError."""
    paths.writable(to)
    others = [p.name for p in to.iterdir() if p.name not in (*OURS, MANIFEST)]
    # The program uv may be in parts, and a bundle that broke off has no manifest.
    if foreign := [name for name in others if not name.startswith("uv.part")]:
        raise UsageError(
            f"is not empty: it holds {', '.join(sorted(foreign)[:3])}",
            where=str(to),
            fix="give --to a new directory",
        )
    for path in to.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _cut(path: Path, staged: Path, to: Path, size: int) -> BundledFile:
    """Move a staged file to ``to``, in parts if it is too long; it never lies there twice."""
    name = str(path.relative_to(staged))
    total = path.stat().st_size
    places = cuts(total, size)
    parts = []
    for number, (offset, length) in enumerate(places):
        part = to / part_name(name, number, len(places))
        part.parent.mkdir(parents=True, exist_ok=True)
        if len(places) == 1 and not path.is_symlink():
            shutil.move(path, part)
        else:
            _write_part(path, offset, length, part)
        sha256 = _hash(part)
        parts.append(Part(path=str(part.relative_to(to)), size=length, sha256=sha256))
    path.unlink(missing_ok=True)
    return BundledFile(path=name, size=total, parts=tuple(parts))


def _write_part(path: Path, offset: int, length: int, part: Path) -> None:
    with path.open("rb") as data, part.open("wb") as out:
        data.seek(offset)
        while length and (chunk := data.read(min(CHUNK, length))):
            out.write(chunk)
            length -= len(chunk)


def _copy(directory: Path, file: BundledFile, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        for part in file.parts:
            with _inside(directory, part.path).open("rb") as data:
                shutil.copyfileobj(data, out, CHUNK)


def _inside(directory: Path, name: str) -> Path:
    """A path of the manifest below ``directory``. Raises UsageError: it leads elsewhere."""
    if name.startswith("/") or ".." in Path(name).parts:
        raise UsageError(
            f"the manifest names '{name}', which is not in it", where=str(directory)
        )
    return directory / name


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as data:
        while chunk := data.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
