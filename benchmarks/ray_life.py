"""A deployment's life on a Ray that lemnos starts on three hosts: prints a Markdown table. About 3 minutes.

    python -m tests.testbeds.ray; sudo .venv/bin/python benchmarks/ray_life.py

The hosts are the tests' own (tests/testbeds/hosts.py): namespaces of this machine, reached over SSH. The
engine is llama.cpp with SmolLM2, two replicas on two hosts; requests ask for one token, two a second.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the beds are the tests'

from lemnos.models.progress import Silent  # noqa: E402
from lemnos.models.pull import pull  # noqa: E402
from lemnos.spec.deployment import ModelSpec  # noqa: E402
from tests.cluster_life import Life, failed, files_left  # noqa: E402
from tests.testbeds.hosts import Hosts  # noqa: E402
from tests.testbeds.ray import PYTHON, hosts_with_ray  # noqa: E402
from tests.waiting import until  # noqa: E402

NODES = ("n1", "n2", "n3")
WORDS = (
    *("--on", "ray", "--set", "ray.hosts=[n1,n2,n3]", "--set", f"ray.python={PYTHON}"),
    *("--set", f"ray.cpus={len(os.sched_getaffinity(0))}", "--set", "replicas=2"),
)


def main() -> None:
    """Measure, print, and exit 0 whatever the figures are: they are not a test."""
    models = ROOT / ".pytest_cache/d/lemnos-models"
    os.environ["LEMNOS_MODELS"] = str(models)
    pull(ModelSpec(source="smollm2"), Silent())
    with tempfile.TemporaryDirectory(prefix="lemnos-life-") as directory:
        home, bed = Path(directory) / "home", Path(directory) / "bed"
        home.mkdir()
        bed.mkdir()
        try:
            with hosts_with_ray(bed, "desk", *NODES) as boxes:
                measure(boxes, Life(boxes.at("desk"), home, models))
        except pytest.skip.Exception as reason:
            sys.exit(str(reason))


def measure(boxes: Hosts, life: Life) -> None:
    """A start, a lost worker, a lost head, and the end."""
    tell("Ray 2.60, three hosts", "wanted", "measured")
    tell("---", "---", "---")
    began = time.monotonic()
    url = life.up(*WORDS)["url"]
    whole = time.monotonic() - began
    tell("`up`, Ray's start on three hosts included, to ready", "", f"{whole:.1f} s")
    with life.load(url) as told:
        lost = next(host for host in NODES[1:] if engines(boxes, host))
        noticed, back = lose(boxes, life, lost)
    tell("a worker's raylet killed: noticed after", "10 s", f"{noticed:.1f} s")
    tell("Ray there and the replica are back after", "", f"{back:.1f} s")
    missed = f"{len(failed(told))} of {len(told)}"
    tell("requests meanwhile, 2 a second to both replicas: failed", "", missed)
    noticed, back = lose(boxes, life, "n1")
    tell("the head's raylet killed: noticed after", "10 s", f"{noticed:.1f} s")
    tell("Ray on three hosts and both replicas are back after", "", f"{back:.1f} s")
    life.run("down", "--all")
    left = [line for host in NODES for line in of_ours(boxes, host)]
    files = files_left(life.home)
    tell("`down` leaves", "nothing", f"{len(left)} processes, {len(files)} files")


def lose(boxes: Hosts, life: Life, host: str) -> tuple[float, float]:
    """Seconds until it is known, and until all is well again."""
    (before,) = life.report("ps")
    (raylet,) = boxes.run(host, "pgrep", "-x", "raylet").split()
    killed = time.monotonic()
    boxes.run(host, "kill", "-9", raylet)

    def after(condition: Callable[[], bool]) -> float:
        until(condition, within_s=240)
        return time.monotonic() - killed

    noticed = after(lambda: life.report("ps")[0]["restarts"] > before["restarts"])
    back = after(lambda: life.report("ps")[0]["phase"] == "ready")
    return noticed, back


def engines(boxes: Hosts, host: str) -> list[str]:
    return [line for line in boxes.processes(host) if "llamacpp_server" in line]


def of_ours(boxes: Hosts, host: str) -> list[str]:
    """All but the host's own sshd."""
    return [line for line in boxes.processes(host) if "sshd" not in line]


def tell(*cells: str) -> None:
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
