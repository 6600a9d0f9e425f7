"""Patches of engine files: read, planned and applied."""

from __future__ import annotations

import difflib
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.engines import overlays
from lemnos.engines.overlays import FilePatch, Patch, Step
from lemnos.errors import LemnosError, UsageError

OLD = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n"
NEW = b"one\nTWO\nthree\nfour\nfive\nsix\nseven\neight\nnine\n"


def diff(old: bytes, new: bytes, path: str = "eng/core.py") -> bytes:
    lines = difflib.diff_bytes(
        difflib.unified_diff,
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        f"a/{path}".encode(),
        f"b/{path}".encode(),
        n=1,
    )
    ended = (
        x if x.endswith(b"\n") else x + b"\n\\ No newline at end of file\n"
        for x in lines
    )
    return b"".join(ended)


def patch(old: bytes, new: bytes, path: str = "eng/core.py") -> bytes:
    head = f"# lemnos: sha256 {hashlib.sha256(old).hexdigest()} {path}\n"
    return head.encode() + diff(old, new, path)


def test_a_patch_gives_the_new_content() -> None:
    made = overlays.read_patch(patch(OLD, NEW), "fix.diff")
    (file,) = made.files
    assert file.path == "eng/core.py" and len(file.hunks) == 2
    assert overlays.apply(OLD, file) == NEW


WORDS = st.lists(
    st.sampled_from([b"a\n", b"b\n", b"\n", b"c\r\n", b"--- d\n"]), max_size=12
)


@given(WORDS, WORDS, st.sampled_from([b"", b"end"]), st.sampled_from([b"", b"end"]))
def test_any_change_is_applied(
    old: list[bytes], new: list[bytes], tail: bytes, end: bytes
) -> None:
    before, after = b"".join(old) + tail, b"".join(new) + end
    if before == after:
        return
    (file,) = overlays.read_patch(patch(before, after), "p").files
    assert overlays.apply(before, file) == after


def test_another_version_is_refused_with_both_hashes() -> None:
    (file,) = overlays.read_patch(patch(OLD, NEW), "fix.diff").files
    found = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(LemnosError) as told:
        overlays.apply(b"other", file)
    assert f"has sha256 {found}, the patch was made for {file.sha256}" in str(
        told.value
    )
    made = Patch("fix.diff", (file,), "x")
    with pytest.raises(LemnosError, match="another version"):
        overlays.check_sums([made], {file.path: found})
    with pytest.raises(LemnosError, match="there is no eng/core.py"):
        overlays.check_sums([made], {file.path: None})
    with pytest.raises(UsageError, match=r"fix.diff and b.diff both patch eng/core.py"):
        overlays.check_sums(
            [made, Patch("b.diff", (file,), "y")], {file.path: file.sha256}
        )
    overlays.check_sums([made], {file.path: file.sha256})


def test_an_edited_diff_is_refused() -> None:
    text = patch(OLD, NEW).replace(b"-two", b"-2")
    (file,) = overlays.read_patch(text, "fix.diff").files
    with pytest.raises(LemnosError, match="lines at 1 are not the file's"):
        overlays.apply(OLD, file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"hello\n", "holds no unified diff"),
        (b"", "holds no unified diff"),
        (diff(OLD, NEW), "does not say which content eng/core.py must have"),
        (patch(OLD, NEW) + patch(OLD, NEW), "patches a file twice"),
        (patch(OLD, NEW)[:-9], "ends too early"),
        (patch(OLD, NEW, "../etc/passwd"), "is no file of a package"),
        (patch(OLD, NEW, "core.py"), "is no file of a package"),
        (
            b"--- /dev/null\n+++ b/eng/new.py\n@@ -0,0 +1 @@\n+x\n",
            "makes or removes a file",
        ),
    ],
)
def test_what_is_no_patch(text: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        overlays.read_patch(text, "fix.diff")


def test_only_the_way_to_a_patched_file_is_copied() -> None:
    listing = {
        "eng": ["__init__.py", "core.py", "sub", "lib.so", "__pycache__"],
        "eng/sub": ["a.py", "b.py"],
    }
    assert overlays.steps(["eng/sub/a.py"], listing) == [
        Step("directory", "eng"),
        Step("directory", "eng/sub"),
        Step("link", "eng/__init__.py"),
        Step("link", "eng/core.py"),
        Step("link", "eng/lib.so"),
        Step("link", "eng/sub/b.py"),
        Step("patched", "eng/sub/a.py"),
    ]


def test_a_container_mounts_the_files_and_compares_its_own(tmp_path: Path) -> None:
    site = tmp_path / "site packages"
    (site / "eng").mkdir(parents=True)
    (site / "eng/core.py").write_bytes(OLD)
    made = overlays.read_patch(patch(OLD, NEW), "fix.diff")
    assert overlays.mounts(Path("/o"), [made], "/img") == [
        ("/o/eng/core.py", "/img/eng/core.py")
    ]
    script = overlays.check_script([made], str(site))
    assert subprocess.run(["sh", "-c", script]).returncode == 0
    (site / "eng/core.py").write_bytes(NEW)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    assert done.returncode == 1 and "another version of the image" in done.stderr


def environment(root: Path) -> tuple[Path, Path]:
    """(its Python's place, site-packages) of an environment with a package in it."""
    site = root / "lib/python3.11/site-packages"
    (site / "eng/sub").mkdir(parents=True)
    (site / "eng/__init__.py").write_text("from eng.sub import data\n")
    (site / "eng/core.py").write_text("def answer():\n    return 1\n")
    (site / "eng/sub/__init__.py").write_text(
        "from pathlib import Path\n"
        "def data():\n    return (Path(__file__).parent / 'data.txt').read_text()\n"
    )
    (site / "eng/sub/data.txt").write_text("kept")
    return root / "bin/python", site


def test_the_patched_copy_comes_first_and_the_environment_stays(tmp_path: Path) -> None:
    python, site = environment(tmp_path / "env")
    old = (site / "eng/core.py").read_bytes()
    made = overlays.read_patch(patch(old, old.replace(b"1", b"2")), "fix.diff")
    home = overlays.make_overlay(python, [made], tmp_path / "overlays", "r1")
    assert overlays.make_overlay(python, [made], tmp_path / "overlays", "r1") == home
    assert overlays.make_overlay(python, [made], tmp_path / "overlays", "r2") != home
    env = overlays.env_of(home, str(site))
    code = "import eng.core; print(eng.core.answer(), eng.data(), eng.core.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2", "kept", f"{home}/eng/core.py"]
    assert (site / "eng/core.py").read_bytes() == old
    assert (home / "eng/sub").is_symlink()
    assert not [p for p in (tmp_path / "overlays").iterdir() if ".partial" in p.name]


def test_nothing_is_made_for_another_version(tmp_path: Path) -> None:
    python, _ = environment(tmp_path / "env")
    made = overlays.read_patch(patch(OLD, NEW), "fix.diff")
    with pytest.raises(LemnosError, match="another version"):
        overlays.make_overlay(python, [made], tmp_path / "overlays", "r1")
    assert not (tmp_path / "overlays").exists()
    with pytest.raises(UsageError, match="not an environment's Python"):
        overlays.make_overlay(tmp_path / "x/bin/python", [made], tmp_path, "r1")


def test_files_are_patched_with_their_own_permissions(tmp_path: Path) -> None:
    python, site = environment(tmp_path / "env")
    (site / "eng/core.py").chmod(0o755)
    old = (site / "eng/core.py").read_bytes()
    file = FilePatch("eng/core.py", hashlib.sha256(old).hexdigest(), ())
    home = overlays.make_overlay(
        python, [Patch("p", (file,), "s")], tmp_path / "o", "r"
    )
    assert (home / "eng/core.py").stat().st_mode & 0o777 == 0o755
