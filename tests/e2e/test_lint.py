"""``lemnos lint`` as people run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.command import failing, lemnos

BROKEN = """#!/bin/bash
# serves
vllm serve zai-org/GLM-4.6-FP8 \\
    --tensor-parallel-size 8 \\
    --swap-space 4 \\
    --host 127.0.0.1   # only here
"""


def _script(tmp_path: Path) -> Path:
    path = tmp_path / "serve.sh"
    path.write_text(BROKEN)
    path.chmod(0o750)
    return path


def test_a_script_with_an_error_is_exit_1_and_its_place(tmp_path: Path) -> None:
    path = _script(tmp_path)
    done = lemnos("lint", str(path), "--engine-version", "0.26.0", code=1)
    assert f"{path}:5:5: error LMN202: vllm 0.26.0 has no --swap-space" in done.stdout
    assert done.stdout.endswith("1 engine command: 1 error\n")


def test_fix_rewrites_the_file_and_says_what(tmp_path: Path) -> None:
    path = _script(tmp_path)
    done = lemnos("lint", str(path), "--fix", "--engine-version", "0.26.0")
    assert path.read_text() == BROKEN.replace("    --swap-space 4 \\\n", "")
    assert path.stat().st_mode & 0o777 == 0o750
    assert "fixed LMN202" in done.stderr and done.stdout == ""
    assert lemnos("lint", str(path), "--engine-version", "0.26.0").stdout


def test_a_command_as_words_is_printed_fixed() -> None:
    words = "vllm serve m --swap-space 4 --host ::1 --engine-version 0.26.0".split()
    assert lemnos("lint", *words, code=1).stdout.startswith("command:1:14: error")
    assert lemnos("lint", "--fix", *words).stdout == "vllm serve m --host ::1\n"
    whole = "srun bash -c 'vllm serve m --swap-space 4 --host ::1'"
    done = lemnos("lint", "--fix", "--engine-version", "0.26.0", whole)
    assert done.stdout == "srun bash -c 'vllm serve m --host ::1'\n"


def test_json_and_sarif(tmp_path: Path) -> None:
    path = str(_script(tmp_path))
    text = lemnos("lint", path, path, "--json", code=1).stdout
    files = json.loads(text)["files"]
    assert [one["findings"][-1]["code"] for one in files] == ["LMN202", "LMN202"]
    sarif = json.loads(lemnos("lint", path, "--sarif", code=1).stdout)
    assert sarif["runs"][0]["results"][-1]["ruleId"] == "LMN202"
    fix = lemnos("lint", path, "--fix", "--json", "--engine-version", "0.26.0")
    assert json.loads(fix.stdout)["errors"] == 0


def test_standard_input() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lemnos", "lint", "-", "--fix"],
        input="vllm serve m --host ::1 --swap-space 4\n",
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert (done.returncode, done.stdout) == (0, "vllm serve m --host ::1\n")


def test_memory_on_a_cluster() -> None:
    done = lemnos(
        *("lint", "--cluster", "2xH100", "vllm serve zai-org/GLM-4.5-Air -tp 2"), code=1
    )
    assert "LMN401" in done.stdout and "GLM-4.5-Air-FP8" in done.stdout


def test_lint_that_is_asked_wrongly_is_exit_2(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for words, said in (
        (("nosuch.sh",), "is no file"),
        (("--engine", "foo", "foo", "m"), "knows no engine 'foo'"),
        (("--cluster", "4xNOSUCH", "vllm", "serve", "m"), "NOSUCH"),
        (("--json", "--sarif", "vllm", "serve", "m"), "two documents"),
        ((str(tmp_path / "binary"),), "not UTF-8"),
        (("--exact", "vllm", "serve", "m", "--engine-version", "0.8.5"), "0.8.5 is not installed"),
        (("--exact", "--engine-python", "/none", "vllm", "serve", "m"), "cannot be run"),
    ):  # fmt: skip
        assert said in failing("lint", *words)


def test_an_engine_that_lint_does_not_know_is_said() -> None:
    done = lemnos("lint", "llama-server", "-m", "x.gguf")
    assert "llama.cpp" in done.stdout and "nothing was checked" in done.stdout


def test_help_names_every_option_and_leaves_the_engines_help_alone() -> None:
    text = lemnos("lint", "--help").stdout
    assert all(f"--{name}" in text for name in ("engine-version", "fix", "sarif"))
    assert "lint" in lemnos("--help").stdout
    done = lemnos("lint", "--", "vllm", "serve", "m", "--help", "--host", "::1")
    assert "1 engine command" in done.stdout
    assert "needs a value" in failing("lint", "vllm", "serve", "m", "--engine")
    assert "nothing to lint" in failing("lint", "--json")
