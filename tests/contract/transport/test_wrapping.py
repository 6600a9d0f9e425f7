"""Scripts through the login shells that people have, banners and all."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemnos.transport import wrapping

SHELLS = ("sh", "bash", "dash", "zsh", "tcsh", "fish", "ksh")


def spoken(shell: str, script: str, stdin: bytes = b"") -> bytes:
    """What the script printed, as sshd would have it run."""
    found = shutil.which(shell)
    if not found:
        pytest.skip(f"there is no {shell} here")
    command = [found, "-c", wrapping.through_login_shell(script)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=True)
    return done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_hands_a_script_on(shell: str) -> None:
    words = ["!!", "it's", '"', "$HOME", "`id`", "\\", "\\n", "%s", "é\n", "*", "~", ""]
    script = wrapping.command_script(("printf", "%s|", *words))
    assert wrapping.after_mark(spoken(shell, script)).decode() == "|".join(words) + "|"


@pytest.mark.parametrize("shell", SHELLS)
def test_long_scripts_and_input_arrive(shell: str) -> None:
    script = wrapping.command_script(("printf", "%s", "x'" * 4_000))
    assert wrapping.after_mark(spoken(shell, script)) == b"x'" * 4_000
    assert spoken(shell, "cat", b"bytes") == b"bytes"


@settings(max_examples=30)
@given(st.lists(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))))  # fmt: skip
def test_no_word_means_anything_to_a_shell(words: list[str]) -> None:
    script = wrapping.command_script(("printf", "%s|", "", *words))
    for shell in ("sh", "tcsh", "fish"):
        if shutil.which(shell):
            printed = wrapping.after_mark(spoken(shell, script)).decode()
            assert printed == "|".join(["", *words]) + "|"


def test_what_start_up_files_print_is_cut() -> None:
    assert wrapping.after_mark(b"Welcome!\n@lemnos begins@\nout\n") == b"out\n"
    assert wrapping.after_mark(b"never began") == b"never began"


def test_a_login_shells_path_is_looked_at_too(tmp_path: Path) -> None:
    if not shutil.which("bash"):
        pytest.skip("there is no bash here")
    (tmp_path / "opt").mkdir()
    program = tmp_path / "opt/sbatch-of-the-cluster"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    (tmp_path / ".bash_profile").write_text(f"echo hi; PATH={tmp_path}/opt:$PATH\n")
    done = subprocess.run(
        ["sh", "-c", wrapping.command_script((program.name,))],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=False,
    )
    assert wrapping.after_mark(done.stdout) == b"found\n", done.stderr
