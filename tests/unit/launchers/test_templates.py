"""One rule of quoting for all that templates print."""

from __future__ import annotations

import subprocess

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemnos.launchers import late
from lemnos.launchers.templates import Shell, script, shell_word


@settings(max_examples=60)
@given(st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_whatever_is_printed_is_one_word(text: str) -> None:
    command = f"printf '%s|' {shell_word(text)}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, check=True)
    assert done.stdout.decode() == f"{late.filled(text, (), 0, 0)}|"


def test_numbers_late_values_and_shell() -> None:
    assert shell_word(5) == "5" and shell_word(2.5) == "2.5"
    assert shell_word(late.PORT) == '"${LEMNOS_PORT}"', "also as a number"
    assert shell_word(Shell("a && b")) == "a && b"
    for nothing in (None, ["a"], {"a": 1}, object()):
        with pytest.raises(TypeError, match="no word for a shell"):
            shell_word(nothing)


def test_what_a_template_names_must_be_given() -> None:
    values = {"directory": "/a b", "log": "/l", "log_directory": "/", "mark": "m", "id": "x", "command": "c"}  # fmt: skip
    text = script("hosts_run.j2", **values)
    assert "cd '/a b' ||" in text and "mv code.part code\n" in text
    del values["log"]
    with pytest.raises(jinja2.UndefinedError):
        script("hosts_run.j2", **values)
