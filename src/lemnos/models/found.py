"""Models that are here already, outside our store: used in place, never copied or changed.

Looked for in Hugging Face's own cache (``HF_HUB_CACHE``, ``HF_HOME``) and in the directories
of ``LEMNOS_MODEL_PATH`` (colons between them), laid out as that cache or as ``org/name``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from lemnos.errors import LemnosError
from lemnos.models import verify
from lemnos.models.sources import Source
from lemnos.spec.facts import LocalModel, ModelFormat


def find_elsewhere(
    source: Source, revision: str | None, file: str | None
) -> LocalModel | None:
    """A whole and verified copy of a hub's model, or None.

    A copy that is not whole counts as none: it will be pulled.
    """
    for directory in _candidates(source, revision):
        try:
            return as_model(source, directory, file)
        except LemnosError:
            continue
    return None


def as_model(source: Source, directory: Path, file: str | None) -> LocalModel:
    """The model in a directory, verified. Raises LemnosError if it is not whole."""
    path, kind = _main_file(directory, file)
    verify.check_structure(path, kind)
    files = [path] if kind == "gguf" else sorted(directory.rglob("*"))
    for one in files:
        _check_blob(one)
    return LocalModel(
        name=source.name.rpartition("/")[2] if kind != "gguf" else path.stem,
        source=str(source),
        revision=directory.name if directory.parent.name == "snapshots" else None,
        format=kind,
        path=str(path),
        bytes=sum(one.stat().st_size for one in files if one.is_file()),
    )


def _candidates(source: Source, revision: str | None) -> list[Path]:
    wanted = revision or "main"
    cached = f"models--{source.name.replace('/', '--')}"
    extra = filter(None, os.environ.get("LEMNOS_MODEL_PATH", "").split(":"))
    roots = [Path(root).expanduser() for root in extra]
    if source.kind == "hf":
        roots.append(_hf_cache())
    found = []
    for root in roots:
        found.append(_snapshot(root / cached, wanted))
        if revision is None:
            found.append(root / source.name)
    return [directory for directory in found if directory and directory.is_dir()]


def _snapshot(repository: Path, revision: str) -> Path | None:
    """A snapshot in the hub cache's layout: a commit, or what a branch or tag points to."""
    try:
        commit = (repository / "refs" / revision).read_text().strip()
    except OSError:
        commit = revision
    return (
        repository / "snapshots" / commit if re.fullmatch(r"[\w.-]+", commit) else None
    )


def _hf_cache() -> Path:
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path("~/.cache/huggingface/hub").expanduser()


def _main_file(directory: Path, file: str | None) -> tuple[Path, ModelFormat]:
    if file is not None:
        if not (directory / file).is_file():
            raise LemnosError(f"has no {file}", where=str(directory))
        return directory / file, "gguf"
    if any(directory.glob("*.safetensors")):
        if not (directory / "config.json").is_file():
            raise LemnosError("has no config.json", where=str(directory))
        return directory, "safetensors"
    ggufs = sorted(directory.glob("*.gguf"))
    if len(ggufs) != 1:
        raise LemnosError(f"has {len(ggufs)} GGUF files", where=str(directory))
    return ggufs[0], "gguf"


def _check_blob(path: Path) -> None:
    """In the hub's cache, a large file is a link to a blob that is named by its sha256."""
    name = path.resolve().name
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", name):
        verify.check_sha256(path, name)
