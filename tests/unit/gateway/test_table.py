"""The targets table and the targets' keys, as files change under the gateway."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lemnos.errors import LemnosError
from lemnos.gateway.table import TargetKeys, WatchedTable, read_table
from lemnos.spec.targets import TARGETS_VERSION, TargetTable


def replace(path: Path, text: str) -> None:
    """As a writer does it: a new file under the old name."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def table(revision: int) -> str:
    return TargetTable(revision=revision).model_dump_json()


def test_the_newest_valid_table_is_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "targets.json"
    path.write_text(table(1))
    watched = WatchedTable(path)
    replace(path, table(2))
    assert watched.now.revision == 1
    watched.refresh()
    assert watched.now.revision == 2
    replace(path, '{"revision": 3, "typo": 1}')
    for _ in range(3):
        watched.refresh()
    assert watched.now.revision == 2
    assert len(caplog.records) == 1, "a broken table is said once"
    assert "revision 2 stays" in caplog.text
    path.unlink()
    watched.refresh()
    assert watched.now.revision == 2
    replace(path, table(4))
    watched.refresh()
    assert watched.now.revision == 4


def test_tables_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    for text, says in (
        (b"\xff", "not valid"),
        (b"{}", "not valid: Field required"),
        (f'{{"revision": 1, "version": {TARGETS_VERSION + 1}}}'.encode(), "newer"),
    ):
        path.write_bytes(text)
        with pytest.raises(LemnosError, match=says):
            read_table(path)
    with pytest.raises(LemnosError, match="cannot be read"):
        read_table(tmp_path / "none")


def test_keys_are_read_again_when_their_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one\n")
    keys = TargetKeys()
    assert keys.of(None) is None
    assert keys.of(str(path)) == "one"
    path.write_text("two\n")
    os.utime(path, ns=(1, 1))
    assert keys.of(str(path)) == "two"
    path.unlink()
    with pytest.raises(OSError):
        keys.of(str(path))
