"""lemnos on the login node of a bed's PBS, as ada."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from tests.cluster_life import Life
from tests.testbeds.hosts import ADA
from tests.testbeds.pbs import Pbs


def life_of(pbs: Pbs, models: Path) -> Life:
    """With a home of its own below ada's, which all hosts share, and a copy of ``models`` there."""
    name = uuid.uuid4().hex[:8]
    home, own = pbs.home / name, pbs.home / "models"
    home.mkdir()
    if not own.exists():
        shutil.copytree(models, own, symlinks=True)
    for path in (home, own, *own.rglob("*")):
        os.chown(path, ADA, ADA, follow_symlinks=False)
    there = Path("/home/ada")
    words = [*pbs.as_ada(), "env", f"--chdir={there / name}"]
    return Life(words, there / name, there / "models", seen_here=home)
