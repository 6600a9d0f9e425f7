"""Where things are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lemnos import paths
from lemnos.errors import LemnosError


def test_lemnos_home_moves_everything(home: Path) -> None:
    assert paths.state_dir() == home / "lemnos" / "state"
    assert paths.models_dir() == home / "lemnos" / "models"
    assert paths.state_dir().stat().st_mode & 0o077 == 0


def test_xdg_directories(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LEMNOS_HOME")
    assert paths.state_dir() == home / ".local/state/lemnos"
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "s"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "d"))
    assert paths.state_dir() == home / "s/lemnos"
    assert paths.models_dir() == home / "d/lemnos/models"
    monkeypatch.setenv("LEMNOS_MODELS", str(home / "m"))
    assert paths.models_dir() == home / "m"


def test_what_cannot_be_written_is_a_sentence(home: Path) -> None:
    (home / "file").write_text("")
    with pytest.raises(LemnosError, match="cannot write here .*\n.*LEMNOS_HOME"):
        paths.writable(home / "file" / "below")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc")
def test_a_directory_without_permission_is_a_sentence() -> None:
    with pytest.raises(LemnosError, match="cannot write here"):
        paths.writable(Path("/proc/self/lemnos"))


def test_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "f"
    paths.replace_file(path, b"one", mode=0o600)
    paths.replace_file(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two" and path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["f"]
    with pytest.raises(TypeError):
        paths.replace_file(path, "text")  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == ["f"] and path.read_bytes() == b"two"
