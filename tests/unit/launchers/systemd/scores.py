"""What ``systemd-analyze security`` says of the services, as the table in docs/systemd.md:
``python -m tests.unit.launchers.systemd.scores``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lemnos.launchers.systemd import render
from lemnos.spec.unit import Unit
from tests.unit.launchers.systemd import units

SYSTEM = {"scope": "system", "user": "llm"}
ROWS: tuple[tuple[str, Unit, dict[str, Any]], ...] = (
    ("engine, system, `user: llm`", units.engine(), SYSTEM),
    ("engine, system, root", units.engine(), {"scope": "system"}),
    ("engine on Ray, system, `user: llm`", units.engine(units.TWO), SYSTEM),
    ("gateway, system", units.gateway(), SYSTEM),
    ("engine, a user's own", units.engine(), {}),
    ("the same without hardening", units.engine(), {"hardening": False}),
)


def version() -> str:
    """``systemd 252 ...``; empty where there is none."""
    if not shutil.which("systemd-analyze"):
        return ""
    words = ["systemd-analyze", "--version"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout


def table() -> str:
    """One row a service: its exposure, 0 (none) to 10."""
    rows = [f"| {name} | {score(unit, keys)} |" for name, unit, keys in ROWS]
    return "\n".join(["| service | exposure |", "|---|---|", *rows]) + "\n"


def score(unit: Unit, keys: dict[str, Any]) -> str:
    """``2.6 OK``, as systemd says it."""
    part = render.parts_of(unit, units.ground(systemd=keys))[0]
    scope = "--user" if keys.get("scope") != "system" else "--system"
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / part.service
        path.write_text(part.files[part.service])
        words = ["systemd-analyze", scope, "security", "--offline=true", "--no-pager"]
        done = subprocess.run(
            [*words, str(path)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"XDG_RUNTIME_DIR": directory},
        )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+ \w+)", done.stdout)
    assert found, done.stdout + done.stderr
    return found[1]


if __name__ == "__main__":
    sys.stdout.write(table())
