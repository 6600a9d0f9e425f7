"""The files of a deployment."""

from __future__ import annotations

from pathlib import Path

from lemnos.deployments.files import Files


def test_keys_are_words_for_every_parser(tmp_path: Path) -> None:
    """An engine's parser takes what begins with '-' for a flag."""
    files = Files(tmp_path)
    seen = set()
    for _ in range(50):
        files.make_key()
        key = files.engine_key.read_text()
        assert key.startswith("lemnos-") and len(key) > 40
        assert files.engine_key.stat().st_mode & 0o777 == 0o600
        seen |= {key, files.own_key.read_text()}
    assert len(seen) == 100
