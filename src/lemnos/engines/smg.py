"""smg, Shepherd's model gateway, before SGLang's prefill and decode engines: where it is, and
how it is started.

Its ``--api-key`` is both the key that it demands on its port and the one that it sends to its
engines: one key of a group serves for both, so that nobody else on the machine can use it. It can
be given by argv alone; ``smg_process.py`` makes that argv inside the process, for the gateway's own
children, and ``ENTRY_CODE`` for a router that is a job of a unit.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from lemnos.engines.environments import places
from lemnos.errors import UsageError
from lemnos.spec.targets import Router

ENTRY = Path(__file__).with_name("smg_process.py")
ENTRY_CODE = (
    "import os, sys; "
    "[os.environ.pop(name) for name in [*os.environ] if name.lower().endswith('_proxy')]; "
    "from smg.cli import main; key = open(sys.argv[1]).read().strip(); "
    "words = sys.argv[2:]; sys.argv = ['smg', *words]; main([*words, '--api-key=' + key])"
)
"""``python -I -c ENTRY_CODE KEY_FILE launch ...``: nothing of lemnos need be where a job runs. Proxies
do not lead to engines, and smg does not heed NO_PROXY=*."""
HEALTH = "/readiness"
"""Answers 200 while engines of both kinds are well; ``/health`` does without any."""
HOST = "127.0.0.1"
VERSIONS = SpecifierSet(">=1.13,<2")
"""1.13.0 was tried; another major version may have other options."""
PACKAGE = "smg==1.13.0"
INSTALL = f"lemnos engines install {PACKAGE}"
GRACE_S = 600
"""How long a router that is replaced may finish its open requests."""
UNIT_GRACE_S = 5
"""One that ends with its engines has been drained before."""
FOR_EVER_S = 10 * 365 * 86_400
VERSION_CODE = "import importlib.metadata as m; print(m.version('smg'))"


def python_of(program: str | None) -> str:
    """The Python that has smg: of ``program`` (its command, or a Python), of lemnos's newest
    environment of it, or of the ``smg`` on PATH. Raises UsageError, in this order."""
    if program is None:
        here = [each for each in places.environments() if each.engine == "smg"]
        usable = [each for each in here if VERSIONS.contains(each.version)]
        if usable:
            return max(usable, key=lambda each: Version(each.version)).program
    found = shutil.which(program or "smg")
    if found is None:
        what = f"there is no program '{program}'" if program else "smg is not installed"
        raise UsageError(what, where="router: smg", fix=INSTALL)
    python = _python_beside(Path(found))
    version = _version_at(python)
    if version is None:
        raise UsageError(
            f"smg cannot be imported by {python}", where="router: smg", fix=INSTALL
        )
    if not VERSIONS.contains(version):
        raise UsageError(
            f"{found} is smg {version}, and lemnos needs {VERSIONS}",
            where="router: smg",
            fix=INSTALL,
        )
    return str(python)


def _python_beside(found: Path) -> Path:
    """An environment's Python is a link that must not be followed; its commands may be linked
    to from elsewhere (pipx, uv tool)."""
    if found.name.startswith("python"):
        return found.absolute()
    return found.resolve().with_name("python")


def _version_at(python: Path) -> str | None:
    try:
        done = subprocess.run(
            [str(python), "-I", "-c", VERSION_CODE],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return str(Version(done.stdout.strip()))
    except (OSError, subprocess.TimeoutExpired, InvalidVersion):
        return None


def arguments(
    router: Router,
    port: int,
    metrics_port: int,
    *,
    host: str = HOST,
    grace_s: int = GRACE_S,
) -> list[str]:
    """Pure: what follows ``smg``, without the key. ``host``: the address of its API."""
    words = ["launch", "--pd-disaggregation", "--policy", router.policy]
    for worker in router.prefill:
        words += ["--prefill", worker.url, str(worker.bootstrap_port)]
    for url in router.decode:
        words += ["--decode", url]
    words += ["--host", host, "--port", str(port)]
    # Its metrics have a port of their own, which everybody reaches by default.
    words += ["--prometheus-host", HOST, "--prometheus-port", str(metrics_port)]
    # Nothing is kept of what was said, and no tokenizer is fetched: nodes may be offline.
    words += ["--history-backend", "none", "--disable-tokenizer-autoload"]
    # Engines that are not up yet are asked every second, however long they take.
    words += ["--worker-startup-check-interval", "1"]
    words += ["--worker-startup-timeout-secs", str(FOR_EVER_S)]
    words += ["--health-check-interval-secs", "5", "--log-level", "warn"]
    # One that failed is tried again after so long; smg's own 60 s would outlast a restart.
    words += ["--cb-timeout-duration-secs", "5"]
    return [*words, "--shutdown-grace-period-secs", str(grace_s)]
