"""The README's snippets and the examples work as pasted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import lemnos, report

pytestmark = pytest.mark.usefixtures("embedded")  # plain runs have these, too

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    """The code blocks of a kind."""
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


def test_snippets_work_as_pasted() -> None:
    # The snippets name the default port; a test may not count on it, so it is replaced.
    up = report("up", "--context", "512", "--concurrency", "2")
    port = up["url"].removesuffix("/v1").rpartition(":")[2]
    try:
        (curl,) = [block for block in blocks("") if block.startswith("curl")]
        assert '"content":' in run(["sh", "-c", curl.replace("5366", port)])
        for name in ("openai", "anthropic"):
            (code,) = [block for block in blocks("python") if f"from {name}" in block]
            assert run([sys.executable, "-c", code.replace("5366", port)]).strip()
    finally:
        lemnos("down", "--now")


def test_the_python_snippet_works_as_pasted() -> None:
    (code,) = [block for block in blocks("python") if "lemnos.up()" in block]
    try:
        assert run([sys.executable, "-c", code]).strip()
    finally:
        lemnos("down", "--now")


def test_the_spec_in_the_readme_is_one(tmp_path: Path) -> None:
    (text,) = blocks("yaml")
    (tmp_path / "deployment.yaml").write_text(text)
    plan = report("up", str(tmp_path / "deployment.yaml"), "--dry-run")["plan"]
    assert (plan["name"], plan["embedded"]["settings"]["context"]) == (
        "assistant",
        4096,
    )


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("examples/*/*.yaml")), ids=lambda path: path.parent.name
)
def test_examples_can_be_dry_run(path: Path, tmp_path: Path) -> None:
    if "gateway" not in path.name:
        assert report("up", str(path), "--dry-run")["jobs"]
        return
    copied = tmp_path / path.name
    copied.write_text(path.read_text())
    lemnos("keys", "add", "ann", "--keys-file", str(tmp_path / "keys.yaml"))
    assert report("gateway", "check", str(copied))["routes"]


def test_every_verb_of_the_readme_exists() -> None:
    shown = re.search(r"## The other verbs\n+```\n(.*?)```", README, re.DOTALL)
    assert shown
    verbs = {
        line.split()[1] for line in shown[1].splitlines() if line.startswith("lemnos ")
    }
    help_text = lemnos("--help").stdout
    for verb in verbs:
        assert re.search(rf"^\s+{re.escape(verb)}\s", help_text, re.MULTILINE), verb


def run(command: list[str]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
