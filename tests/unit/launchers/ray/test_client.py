"""What the dashboard's answers become, against a real server that gives them."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.ray.launcher import Ray
from tests.unit.launchers.ray import units


@contextlib.contextmanager
def answering(status: int, body: str) -> Iterator[tuple[str, list[str]]]:
    """A server that says this to everything; its URL, and the tokens that it was given."""
    tokens: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            tokens.append(self.headers.get("Authorization", ""))
            data = body.encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", tokens
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, "<html>hello</html>", "no Ray dashboard"),
        (200, '{"object": "list"}', "no Ray dashboard"),
        (404, "404: Not Found", "no Ray dashboard"),
        (401, "Unauthorized: Missing authentication token", "demands a token"),
        (500, "Traceback (most recent call last):\n  x\nRuntimeError: full", "Ray refuses it: RuntimeError: full"),
    ],
)  # fmt: skip
def test_what_is_no_dashboard_or_refuses_is_a_sentence(
    status: int, body: str, says: str
) -> None:
    with answering(status, body) as (url, _):
        launcher = Ray(units.site(ray={"address": url}))
        with pytest.raises(LemnosError, match=says) as caught:
            launcher.status()
        assert caught.value.where == url and caught.value.fix


def test_a_wrong_token_is_refused_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    with answering(403, "Forbidden: Invalid authentication token") as (url, tokens):
        keys = {"address": url, "token_file": str(tmp_path / "token")}
        with pytest.raises(LemnosError, match="refuses the token") as caught:
            Ray(units.site(ray=keys)).status()
        assert "s3cret" not in str(caught.value)
    assert tokens == ["Bearer s3cret"]
    gone = {"address": "http://127.0.0.1:1", "token_file": str(tmp_path / "none")}
    with pytest.raises(UsageError, match="cannot be read"):
        Ray(units.site(ray=gone)).status()


def test_nobody_there_and_no_url_are_said() -> None:
    with pytest.raises(LemnosError, match="does not answer"):
        Ray(units.site(ray={"address": "http://127.0.0.1:1"})).status()
    for address in ("ray://10.0.0.1:10001", "10.0.0.1:6379"):
        with pytest.raises(UsageError, match="no URL of a dashboard"):
            Ray(units.site(ray={"address": address})).status()
