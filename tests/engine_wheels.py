"""A tiny engine as wheels, and lemnos's builds with it in them.

``python -m tests.engine_wheels engines install tiny==1.0`` is ``lemnos engines ...`` with those.
What the engine does when it is imported is up to ``TINY_FAILS`` and ``TINY_WAITS``.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import zipfile
from pathlib import Path

from lemnos.engines.environments import builds, installing
from lemnos.spec.document import parse

BUILDS = """
drivers: {12: '525.60.13'}
engines:
  tiny:
    package: tiny-engine
    module: tiny_engine
    alias: {name: tiny, local: cpu}
    builds:
      - {versions: '>=1', architectures: [x86_64, aarch64], glibc: '2.17', python: '>=3.10', disk_gib: 0.01}
    images:
      - {versions: '>=1', architectures: [x86_64, aarch64], name: 'example/tiny:v{version}'}
"""
ENGINE = """
import os, sys, time
if os.environ.get("TINY_FAILS"):
    sys.exit("the engine's own words: no such thing")
if waits := os.environ.get("TINY_WAITS"):
    open(waits, "w").close()
    time.sleep(60)
import tiny_part
def main():
    print("tiny here")
"""


def write_index(directory: Path) -> str:
    """A package index in files: the engine, what it needs, and pip, which downloads bundles.

    Gives its URL.
    """
    directory.mkdir(parents=True)
    part = {"tiny_part/__init__.py": b"x = 1\n" + b"# long\n" * 3000}
    _wheel(directory, "tiny_part", "2.0", part, "")
    engine = {"tiny_engine/__init__.py": ENGINE.encode()}
    _wheel(directory, "tiny_engine", "1.0", engine, "Requires-Dist: tiny-part\n")
    if pip := bundled_pip():
        shutil.copy(pip, directory)
    for wheel in sorted(directory.glob("*.whl")):
        name = wheel.name.split("-")[0].replace("_", "-")
        page = directory / "simple" / name / "index.html"
        page.parent.mkdir(parents=True)
        page.write_text(f'<a href="../../{wheel.name}">{wheel.name}</a>')
    return f"file://{directory}/simple"


def bundled_pip() -> Path | None:
    """The wheel of pip that Python brings for new environments; some systems leave it out."""
    import ensurepip

    found = sorted(Path(ensurepip.__file__).parent.glob("_bundled/pip-*.whl"))
    return found[0] if found else None


def with_tiny() -> builds.Builds:
    """``builds.yaml`` of the test."""
    return parse(BUILDS, builds.Builds, where="tests")


def main() -> None:
    """lemnos's command line, with the tiny engine known."""
    from lemnos.cli.main import main as lemnos

    for module in (builds, installing):
        setattr(module, "known_builds", with_tiny)  # noqa: B010
    lemnos()


def _wheel(
    directory: Path, name: str, version: str, files: dict[str, bytes], more: str
) -> None:
    info = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}"
    tag = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    points = "[console_scripts]\ntiny = tiny_engine:main\n"
    files = files | {f"{info}/METADATA": head.encode(), f"{info}/WHEEL": tag.encode()}
    if "engine" in name:
        files[f"{info}/entry_points.txt"] = points.encode()
    lines = []
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
        lines.append(f"{path},sha256={digest.decode()},{len(data)}")
    record = "\n".join([*lines, f"{info}/RECORD,,", ""])
    target = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        archive.writestr(f"{info}/RECORD", record)


if __name__ == "__main__":
    main()
