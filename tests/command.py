"""``lemnos WORDS`` as a process of its own, as people run it."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from tests import processes


def lemnos(*words: str, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end; it must leave with ``code``, and never with a traceback."""
    done = processes.run("lemnos", *words, env=os.environ | env)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def report(*words: str) -> Any:
    """What ``lemnos WORDS --json`` prints."""
    return json.loads(lemnos(*words, "--json").stdout)


def failing(*words: str) -> str:
    """What ``lemnos WORDS`` says on standard error; it must not succeed, nor end in a traceback."""
    done = processes.run("lemnos", *words, env=dict(os.environ))
    assert done.returncode in (1, 2), done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr
