"""Where lemnos keeps things: XDG directories, or all below ``LEMNOS_HOME``.

=========  ==========================================  =======================
directory  holds                                       XDG variable
=========  ==========================================  =======================
state      database, deployments' files, logs          ``XDG_STATE_HOME``
models     pulled models (large; may be shared)        ``XDG_DATA_HOME``
cache      what can be made again                      ``XDG_CACHE_HOME``
=========  ==========================================  =======================

``LEMNOS_MODELS`` moves the models alone (a shared directory, say).
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from lemnos.errors import LemnosError


def _base(kind: str) -> Path:
    if home := os.environ.get("LEMNOS_HOME"):
        return Path(home).expanduser().absolute() / kind
    import platformdirs

    dirs = platformdirs.PlatformDirs("lemnos")
    by_kind = {
        "state": dirs.user_state_path,
        "models": dirs.user_data_path / "models",
        "cache": dirs.user_cache_path,
    }
    return by_kind[kind]


def state_dir() -> Path:
    """Database and deployments; private to its owner."""
    return writable(_base("state"), mode=0o700)


def models_dir() -> Path:
    """Pulled models; ``LEMNOS_MODELS`` or ``LEMNOS_HOME`` move it."""
    if shared := os.environ.get("LEMNOS_MODELS"):
        return writable(Path(shared).expanduser().absolute())
    return writable(_base("models"))


def cache_dir() -> Path:
    """What engines compiled and tuned: kept between starts, and safe to delete. Not made here."""
    return _base("cache")


def writable(path: Path, *, mode: int = 0o755) -> Path:
    """``path`` as a directory that can be written, or an error that names the variable to set."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=mode)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise LemnosError(
            f"cannot write here ({error.strerror or error})",
            where=str(path),
            fix="make it writable, or set LEMNOS_HOME to a directory of yours",
        ) from None
    return path


def replace_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the new one, whole."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def state_id() -> str:
    """What tells this state directory from all others, on whatever machine: made once, kept in it."""
    path = state_dir() / "id"
    if not path.exists():
        aside = path.with_name(f".id.{os.getpid()}")
        aside.write_text(os.urandom(6).hex())
        with contextlib.suppress(FileExistsError):  # another process made it meanwhile
            os.link(aside, path)
        aside.unlink()
    return path.read_text()
