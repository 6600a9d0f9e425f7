"""Copies of a model on hosts that share no file system with this one.

Needs a POSIX shell and coreutils there, nothing else. What arrived is kept, so that an
interrupted copy goes on; every file is hashed there before it gets its name.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from lemnos import paths
from lemnos.errors import LemnosError
from lemnos.models.progress import Progress
from lemnos.models.store import MANIFEST, Manifest, ManifestFile
from lemnos.transport.ssh import Ssh


def copy_to_host(home: Path, host: Ssh, progress: Progress) -> str:
    """Have the store's model in ``home`` on ``host``, at the same place below its store.

    Gives ``host:path``. Raises LemnosError: not reachable, disk full, wrong content.
    """
    manifest = Manifest.model_validate_json((home / MANIFEST).read_bytes())
    below = home.relative_to(paths.models_dir())
    root = host.shell(_REMOTE_ROOT).strip()
    there = f"{root}/{below}"
    quoted = shlex.quote(there)
    if host.shell(f"test -f {quoted}/{MANIFEST} && echo whole || true").strip():
        progress.note(f"{host.host}: has {manifest.name} already")
        return f"{host.host}:{there}"
    host.shell(f"mkdir -p {quoted}.partial")
    for file in manifest.files:
        _send(home / file.path, file, host, f"{there}.partial/{file.path}", progress)
    with (home / MANIFEST).open("rb") as text:
        host.shell(f"cat > {quoted}.partial/{MANIFEST}", stdin=text)
    host.shell(f"mv -T {quoted}.partial {quoted}")
    return f"{host.host}:{there}"


# As lemnos.paths has it, for the shell of another host.
_REMOTE_ROOT = (
    'if [ -n "$LEMNOS_MODELS" ]; then echo "$LEMNOS_MODELS"; '
    'elif [ -n "$LEMNOS_HOME" ]; then echo "$LEMNOS_HOME/models"; '
    'else echo "${XDG_DATA_HOME:-$HOME/.local/share}/lemnos/models"; fi'
)


def _send(
    local: Path, file: ManifestFile, host: Ssh, there: str, progress: Progress
) -> None:
    target, part = shlex.quote(there), shlex.quote(f"{there}.part")
    parent = shlex.quote(there.rpartition("/")[0])
    size = host.shell(
        f"mkdir -p {parent}; if [ -f {target} ]; then echo whole; "
        f"elif [ -f {part} ]; then wc -c < {part}; else echo 0; fi"
    ).strip()
    if size == "whole":
        return
    have = int(size) if int(size) <= file.size else 0
    progress.start(f"{host.host}: {file.path}", file.size, have)
    with local.open("rb") as data:
        data.seek(have)
        host.shell(f"cat {'>>' if have else '>'} {part}", stdin=data)
    progress.advance(file.size - have)
    found = host.shell(f"sha256sum < {part}").split()[0]
    if found != file.sha256:
        host.shell(f"rm -f {part}")
        raise LemnosError(
            f"{file.path} arrived with the wrong content",
            where=host.host,
            fix="run it again; if it stays so, check that host's disk and memory",
        )
    host.shell(f"mv {part} {target}")
