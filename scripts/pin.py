"""Pin every version of the resolution, without a lock file that names hosts.

    make pins                    after a change of dependencies
    make pins ARGS=--upgrade     to the newest versions
    make pins ARGS=--check       exit 1 if the pins are not those of the dependencies

Writes, between the markers in pyproject.toml, ``[tool.uv]``'s ``constraint-dependencies``
(the whole resolution, every group, every platform) and ``build-constraint-dependencies``
(the build backend's), which ``uv sync`` obeys; and ``requirements.lock``, with hashes. uv.lock
itself names hosts, so it is not kept. Only the standard library, and uv.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "# pins: begin (scripts/pin.py writes these)", "# pins: end"


def main() -> None:
    """Write the pins, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", action="store_true", help="newest versions")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lemnos-pin-") as scratch:
        project = Path(scratch)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, project / name)
        shutil.copytree(ROOT / "src", project / "src")
        text = (project / "pyproject.toml").read_text()
        if options.upgrade:
            (project / "pyproject.toml").write_text(with_pins(text, [], []))
        uv("lock", "--quiet", "--directory", str(project))
        pinned = with_pins(
            text,
            resolution((project / "uv.lock").read_text()),
            build_resolution(text, project),
        )
        hashes = exported(project)
    if options.check:
        same = pinned == text and hashes == (ROOT / "requirements.lock").read_text()
        sys.exit(0 if same else "the pins are not those of the dependencies: make pins")
    (ROOT / "pyproject.toml").write_text(pinned)
    (ROOT / "requirements.lock").write_text(hashes)


def resolution(lock: str) -> list[str]:
    """``name==version`` of every package in a uv.lock but the project itself."""
    packages = tomllib.loads(lock)["package"]
    return sorted(
        f"{package['name']}=={package['version']}"
        for package in packages
        if "editable" not in package["source"] and "virtual" not in package["source"]
    )


def with_pins(text: str, pins: list[str], build_pins: list[str]) -> str:
    """pyproject's text with these pins between its markers."""
    lines = [BEGIN, *_listed("constraint-dependencies", pins)]
    lines += [*_listed("build-constraint-dependencies", build_pins), END]
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        sys.exit(f"pyproject.toml has no '{BEGIN}' ... '{END}' in [tool.uv]")
    return pattern.sub(lambda _: "\n".join(lines), text)


def build_resolution(text: str, project: Path) -> list[str]:
    """``name==version`` of the build backend and all that it needs."""
    wanted = project / "build.in"
    wanted.write_text("\n".join(tomllib.loads(text)["build-system"]["requires"]))
    said = uv("pip", "compile", "--quiet", "--universal", "--no-header",
              "--no-annotate", "--python-version", "3.11", str(wanted))  # fmt: skip
    return sorted(line.split(" ;")[0].strip() for line in said.splitlines() if line)


def exported(project: Path) -> str:
    """requirements.lock: every package with its hashes, and no host."""
    text = uv("export", "--quiet", "--frozen", "--no-emit-project", "--no-header",
              "--no-annotate", "--all-groups", "--directory", str(project))  # fmt: skip
    if "://" in text or str(project) in text:
        sys.exit("uv export named a host or a path; requirements.lock is not written")
    return text


def uv(*words: str) -> str:
    """uv's standard output; its own words and exit code when it fails."""
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / "uv"), *words],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"uv {' '.join(words)} failed")
    return done.stdout


def _listed(key: str, items: list[str]) -> list[str]:
    return [f"{key} = [", *(f'    "{item}",' for item in items), "]"]


if __name__ == "__main__":
    main()
