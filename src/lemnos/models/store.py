"""The models that are here: ours, each in a directory with a manifest.

``MODELS/hf/org/name/COMMIT/`` holds the files and ``lemnos.json``, which is written last, in
a directory that gets this name only when it is whole. ``COMMIT.partial`` beside it is a
download that goes on or was interrupted, ``COMMIT.lease`` says whether it goes on.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from lemnos import leases, paths
from lemnos.errors import UsageError, near
from lemnos.models import verify
from lemnos.models.sources import Source
from lemnos.spec.base import Value
from lemnos.spec.facts import LocalModel, ModelFormat

MANIFEST = "lemnos.json"


class ManifestFile(Value):
    """A file of a model; its hash as it came."""

    path: str
    size: int
    sha256: str


class Manifest(Value):
    """What a model's directory holds."""

    version: int = 1
    name: str
    source: str
    revision: str | None
    format: ModelFormat
    main: str
    """The file that an engine is given; empty: the directory."""
    files: tuple[ManifestFile, ...]
    pulled: float
    """Epoch seconds."""


def home_of(source: Source, commit: str | None, file: str | None) -> Path:
    """The directory of a model: one for each source, commit and, of several, file."""
    leaf = (commit or "current").replace("/", "_")
    if source.kind != "pypi" and file:
        leaf += "--" + file.replace("/", "_")
    return paths.models_dir() / source.kind / source.name / leaf


@contextlib.contextmanager
def being_filled(home: Path) -> Iterator[Path]:
    """A directory to fill; when the body is done it becomes ``home``, at once and whole.

    The same one again after an interruption, with what it held. Only one process of all
    that share these models fills it: the others wait, and then find ``home``.
    """
    partial = home.with_name(home.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    yield partial
    partial.rename(home)


@contextlib.contextmanager
def alone(home: Path, what: str, note: Callable[[str], None]) -> Iterator[None]:
    """No other process fills ``home`` meanwhile; ``note`` is told if there is one."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with leases.lease(
        _lease_of(home),
        what=f"pulling {home.name}",
        wait_s=24 * 3600,
        waiting=lambda holder: note(f"{what} is being pulled by {holder}; waiting"),
    ):
        yield


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """The last file of a model."""
    text = manifest.model_dump_json(indent=1)
    paths.replace_file(directory / MANIFEST, text.encode())


def manifest_of(
    directory: Path,
    source: Source,
    commit: str | None,
    kind: ModelFormat,
    main: str,
    *,
    name: str,
) -> Manifest:
    """The manifest of files that are in ``directory``; hashes those that were not yet."""
    from lemnos.models.download import hash_of

    files = [
        ManifestFile(
            path=str(path.relative_to(directory)),
            size=path.stat().st_size,
            sha256=hash_of(path, "sha256"),
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    ]
    return Manifest(
        name=name,
        source=str(source),
        revision=commit,
        format=kind,
        main=main,
        files=tuple(files),
        pulled=time.time(),
    )


def load(home: Path) -> LocalModel | None:
    """The model in ``home``, if it is whole: every file there with its size."""
    manifest = _read_manifest(home)
    if manifest is None or not all(
        (home / f.path).is_file() and (home / f.path).stat().st_size == f.size
        for f in manifest.files
    ):
        return None
    single = manifest.files[0].sha256 if len(manifest.files) == 1 else None
    return LocalModel(
        name=manifest.name,
        source=manifest.source,
        revision=manifest.revision,
        format=manifest.format,
        path=str(home / manifest.main) if manifest.main else str(home),
        bytes=sum(f.size for f in manifest.files),
        sha256=single,
    )


def list_models() -> list[LocalModel]:
    """Every whole model of the store, by name."""
    root = paths.models_dir()
    homes = sorted(path.parent for path in root.rglob(MANIFEST))
    whole = (load(home) for home in homes if not home.name.endswith(".partial"))
    return sorted((m for m in whole if m), key=lambda model: model.name)


def find(name: str) -> LocalModel:
    """The store's model of this name or source. Raises UsageError with near names."""
    models = list_models()
    found = [m for m in models if name in (m.name, m.source, m.path)]
    if len(found) == 1:
        return found[0]
    if found:
        sources = "\n     ".join(f"{m.source} {m.revision or ''}" for m in found)
        raise UsageError(
            f"'{name}' is {len(found)} models: name the source", fix=sources
        )
    names = [m.name for m in models]
    raise UsageError(
        f"no model '{name}' is here",
        fix=near(name, names) or "`lemnos models ls` lists them",
    )


def check(model: LocalModel) -> int:
    """Read every byte of a store's model again; the number of files. Raises LemnosError."""
    home = home_path(model)
    manifest = _read_manifest(home)
    if manifest is None:
        raise UsageError("is no model of the store", where=str(home))
    for file in manifest.files:
        verify.check_sha256(home / file.path, file.sha256, again=True)
    verify.check_structure(Path(model.path), model.format)
    return len(manifest.files)


def remove(model: LocalModel) -> None:
    """Remove a store's model: renamed first, so that nobody sees half of it."""
    home = home_path(model)
    gone = home.with_name(f".{home.name}.removed")
    home.rename(gone)
    shutil.rmtree(gone)
    _remove_empty(home.parent)


def prune(in_use: set[str], *, models: bool) -> tuple[list[str], int]:
    """Remove interrupted downloads, and, if asked, ``models`` whose paths are not in use.

    Gives what was removed and the bytes freed. Downloads that go on stay.
    """
    removed, freed = [], 0
    for partial in sorted(paths.models_dir().rglob("*.partial")):
        home = partial.with_name(partial.name.removesuffix(".partial"))
        if leases.holder_alive(_lease_of(home)):
            continue
        freed += _bytes_of(partial)
        removed.append(str(partial.relative_to(paths.models_dir())))
        shutil.rmtree(partial)
        _remove_empty(partial.parent)
    for model in list_models() if models else []:
        if model.path not in in_use:
            freed += model.bytes
            removed.append(model.name)
            remove(model)
    return removed, freed


def home_path(model: LocalModel) -> Path:
    """The directory with the manifest, for a model of the store."""
    path = Path(model.path)
    return next((p for p in (path, *path.parents) if (p / MANIFEST).is_file()), path)


def _read_manifest(home: Path) -> Manifest | None:
    try:
        return Manifest.model_validate_json((home / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def _lease_of(home: Path) -> Path:
    return home.with_name(home.name + ".lease")


def _bytes_of(directory: Path) -> int:
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())


def _remove_empty(directory: Path) -> None:
    """Remove directories that became empty, up to the store's root."""
    while directory != paths.models_dir():
        try:
            directory.rmdir()
        except OSError:
            return
        directory = directory.parent
