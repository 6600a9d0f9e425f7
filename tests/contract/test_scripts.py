"""The scripts that a bare machine starts with, and what may not be in the repository."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
TOOLS = ("sh", "dirname", "printf", "sort", "head", "tail", "cut", "rm", "cat", "mkdir")


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A copy of scripts/uv, and a PATH with nothing but what every system has."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/uv", tmp_path / "scripts/uv")
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found
        (tmp_path / "bin" / tool).symlink_to(found)
    return tmp_path


def program(directory: Path, name: str, text: str) -> None:
    path = directory / "bin" / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def uv(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(directory / "bin/sh"), str(directory / "scripts/uv"), *words],
        env={"PATH": str(directory / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_new_enough_uv_on_path_is_used(bare: Path) -> None:
    program(
        bare, "uv", 'case "$1" in --version) echo uv 99.1.0;; *) echo ran "$@";; esac'
    )
    program(bare, "python3", "exit 0")
    assert uv(bare, "run", "a b", "c").stdout == "ran run a b c\n"


def test_an_old_uv_is_replaced_and_no_python_is_a_sentence(bare: Path) -> None:
    program(bare, "uv", "echo uv 0.1.0")
    done = uv(bare, "run")
    assert done.returncode == 1
    assert "error: there is no python3 here" in done.stderr


def test_no_venv_module_is_a_sentence_and_leaves_nothing(bare: Path) -> None:
    program(bare, "python3", 'mkdir -p "$3"; echo "ensurepip is not available"; exit 1')
    done = uv(bare, "run")
    assert done.returncode == 1
    assert "apt-get install python3-venv" in done.stderr
    assert "ensurepip is not available" in done.stderr
    assert not (bare / ".tools/uv").exists()


def test_a_pip_without_an_index_is_a_sentence_and_leaves_nothing(bare: Path) -> None:
    fake_pip = "echo '#!/bin/sh' > $3/bin/python; echo 'echo no index; exit 1' >> $3/bin/python"
    program(
        bare,
        "python3",
        f'mkdir -p "$3/bin"; {fake_pip}; {shutil.which("chmod")} +x "$3/bin/python"',
    )
    done = uv(bare, "run")
    assert done.returncode == 1
    assert "pip cannot install uv" in done.stderr and "no index" in done.stderr
    assert not (bare / ".tools/uv").exists()


def test_an_old_python_is_told_that_uv_brings_its_own(bare: Path) -> None:
    program(bare, "python3", 'case "$1" in -V) echo Python 3.10.4;; *) exit 1;; esac')
    program(
        bare,
        "uv",
        'case "$1" in --version) echo uv 99.1.0;; python) exit 1;; *) echo ran;; esac',
    )
    done = uv(bare, "run")
    assert done.returncode == 1
    assert (
        "python3 is 3.10.4; lemnos needs 3.11 or newer: uv brings its own"
        in done.stderr
    )
    assert "set UV_PYTHON" in done.stderr


def test_no_python_is_no_obstacle_where_uv_finds_one(bare: Path) -> None:
    program(
        bare,
        "uv",
        'case "$1 $2" in --version*) echo uv 99.1.0;; "python find") exit 1;; python*) ;; *) echo ran;; esac',
    )
    done = uv(bare, "run")
    assert done.stdout == "ran\n" and len(done.stderr.splitlines()) == 1
    assert "python3 is missing; lemnos needs 3.11 or newer" in done.stderr


PYTHON = """
case "$*" in
    "-m venv "*)
        mkdir -p "$3/bin"; cat "$0" >"$3/bin/python"; chmod +x "$3/bin/python" ;;
    "-m pip install "*"uv==0.13.8")
        echo '#!/bin/sh' >"${0%/*}/uv"; chmod +x "${0%/*}/uv"
        echo '[ "$1" = --version ] && echo "uv 0.13.8" || echo "ran $*"' >>"${0%/*}/uv" ;;
esac
"""


@pytest.mark.parametrize("on_path", [None, "echo uv 0.4.30", "exit 127"])
def test_without_a_good_uv_one_is_installed_once(
    bare: Path, on_path: str | None
) -> None:
    (bare / "bin/chmod").symlink_to(str(shutil.which("chmod")))
    program(bare, "python3", PYTHON)
    if on_path:
        program(bare, "uv", on_path)
    first, second = uv(bare, "sync"), uv(bare, "sync")
    assert (first.stdout, second.stdout) == ("ran sync\n", "ran sync\n")
    assert first.stderr == "installing uv 0.13.8 into .tools (once)\n"
    assert second.stderr == ""


@pytest.fixture
def pin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pin", ROOT / "scripts/pin.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOCK = """
[[package]]
name = "lemnos"
version = "0.1.0"
source = { editable = "." }
[[package]]
name = "b"
version = "2.0"
source = { registry = "somewhere" }
[[package]]
name = "a"
version = "1.0"
source = { registry = "somewhere" }
"""


def test_pins_are_every_package_but_the_project(pin: ModuleType) -> None:
    assert pin.resolution(LOCK) == ["a==1.0", "b==2.0"]


def test_pins_are_written_between_the_markers(pin: ModuleType) -> None:
    text = f"before\n{pin.BEGIN}\nold\n{pin.END}\nafter\n"
    new = pin.with_pins(text, ["a==1.0"], ["h==2.0"])
    assert new.startswith("before\n") and new.endswith("\nafter\n") and "old" not in new
    assert '    "a==1.0",' in new and '    "h==2.0",' in new
    assert pin.with_pins(new, ["a==1.0"], ["h==2.0"]) == new
    with pytest.raises(SystemExit, match="has no"):
        pin.with_pins("nothing", [], [])


def test_every_dependency_is_pinned(pin: ModuleType) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    pinned = {
        line.split("==")[0] for line in project["tool"]["uv"]["constraint-dependencies"]
    }
    written = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    wanted = [canonicalize_name(Requirement(text).name) for text in written]
    assert set(wanted) <= pinned
    locked = (ROOT / "requirements.lock").read_text()
    for name in wanted:
        assert f"\n{name}==" in f"\n{locked}"


def test_tracked_files_name_no_registry_and_no_path_of_a_machine() -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    # Written in parts, so that this file does not name them.
    names = ["py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "/ro" + "ot/"]
    command = [
        "git",
        "grep",
        "-lIiF",
        *(word for name in names for word in ("-e", name)),
    ]
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "GIT_CONFIG_COUNT": "1",
           "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    assert done.stdout == ""


def test_the_console_script_and_the_module_are_the_same() -> None:
    script = Path(sys.executable).with_name("lemnos")
    for command in ([str(script)], [sys.executable, "-m", "lemnos"]):
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=True
        )
        assert done.stdout == "lemnos 0.1.0\n"
