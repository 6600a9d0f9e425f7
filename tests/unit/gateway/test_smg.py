"""Where smg is looked for, and what of its output is logged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lemnos.engines import smg
from lemnos.errors import UsageError
from lemnos.gateway.child import readable

KEY = "kept-by-nobody"


def _program(path: Path, says: str) -> Path:
    path.write_text(f"#!/bin/sh\necho {says}\n")
    path.chmod(0o755)
    return path


def test_a_missing_smg_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="smg is not installed") as told:
        smg.python_of(None)
    assert told.value.fix == "lemnos engines install smg==1.13.0"
    with pytest.raises(UsageError, match="no program './smg'"):
        smg.python_of("./smg")
    with pytest.raises(UsageError, match="cannot be imported by"):
        smg.python_of(sys.executable)


def test_the_smg_on_path_has_its_python_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, shims = tmp_path / "env", tmp_path / "bin"
    home.mkdir()
    shims.mkdir()
    _program(home / "smg", "")
    (shims / "smg").symlink_to(home / "smg")
    python = _program(home / "python", "1.14.2")
    monkeypatch.setenv("PATH", str(shims))
    assert smg.python_of(None) == str(python)
    _program(home / "python", "1.12.0")
    with pytest.raises(UsageError, match=r"is smg 1\.12\.0, and lemnos needs"):
        smg.python_of(None)


@pytest.mark.parametrize(
    ("line", "logged"),
    [
        ("\x1b[2m12:00\x1b[0m \x1b[33mWARN\x1b[0m no workers\n", "12:00 WARN no workers"),
        (f"key {KEY} and Bearer abcdefghijk", "key *** and Bearer ***"),
        ("\u2880\u28fe   mode  PD Disaggregated", ""),
        ("\n", ""),
    ],
)  # fmt: skip
def test_its_output_is_logged_without_keys_and_pictures(line: str, logged: str) -> None:
    assert readable(line, KEY) == logged
