"""A job as a shell script: its words arrive as they are, its keys by another way."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemnos.errors import LemnosError
from lemnos.launchers import late
from lemnos.launchers.script import body_of, hand_over, script_of
from lemnos.spec.plan import Command, Job, Secret
from tests.contract.launchers.bed import check_script, evil

TELL = "import os, sys; print([sys.argv[1:], os.environ.get('X'), os.environ.get('KEY')], end='')"
texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]))


def job(*words: str, x: str = "", secrets: tuple[Secret, ...] = ()) -> Job:
    argv = (sys.executable, "-I", "-S", "-c", TELL, *words)
    command = Command(argv=argv, env={"X": x}, secrets=secrets)
    return Job(deployment="box", role="engine", command=command, port=1, log="/l")


def ran(text: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False, cwd=cwd)  # fmt: skip


@settings(max_examples=25)
@given(st.lists(texts, max_size=4), texts)
def test_words_and_variables_arrive(words: list[str], x: str) -> None:
    if any(late.is_late(text) for text in [*words, x]):
        return
    assert ran(script_of(job(*words, x=x))).stdout == repr([words, x, None])


def test_nothing_is_executed_and_shellcheck_agrees(tmp_path: Path) -> None:
    key = tmp_path / "it's the $(touch canary).key"
    key.write_text("k\n")
    secrets = (Secret(key_file=str(key), env="KEY"), Secret(key_file=str(key), file=str(tmp_path / "$(touch canary9)"), text="`touch canary8`{key}%s\\n"))  # fmt: skip
    made = job(*evil(tmp_path), "--flag", "$(touch canary7)", secrets=secrets)
    check_script(tmp_path, "job.sh", script_of(made))
    assert ran(script_of(made), tmp_path).returncode == 0
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {key.name, "job.sh", "$(touch canary9)"}
    assert (tmp_path / "$(touch canary9)").read_text() == "`touch canary8`k%s\\n"


def test_late_values_are_variables() -> None:
    made = job(late.host(1), str(late.PORT), x=f"{late.host(0)}:{late.INNER_PORT + 1}")
    known = "LEMNOS_HOST_0=a LEMNOS_HOST_1='b c' LEMNOS_PORT=4 LEMNOS_INNER_PORT=5\n"
    assert ran(known + body_of(made)).stdout == repr([["b c", "4"], "a:6", None])


def test_an_engine_never_starts_without_its_key(tmp_path: Path) -> None:
    key = tmp_path / "gone.key"
    secrets = (Secret(key_file=str(key), env="KEY"),)
    done = ran(script_of(job(secrets=secrets)))
    assert done.returncode == 1 and done.stdout == "" and "gone.key" in done.stderr
    with pytest.raises(LemnosError, match="key cannot be handed over"):
        hand_over(secrets)
    key.write_text("s3cret\n")
    assert ran(script_of(job(secrets=secrets))).stdout == repr([[], "", "s3cret"])
    assert hand_over(secrets) == {"KEY": "s3cret"}
    assert "s3cret" not in script_of(job(secrets=secrets))


def test_a_key_in_a_file_needs_the_key_too(tmp_path: Path) -> None:
    target = tmp_path / "engine.yaml"
    secrets = (Secret(key_file=str(tmp_path / "gone"), file=str(target), text="k: {key}\n"),)  # fmt: skip
    done = ran(script_of(job(secrets=secrets)))
    assert done.returncode == 1 and done.stdout == ""
