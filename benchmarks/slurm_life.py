"""A deployment's life on a real Slurm or OpenPBS, with the real engine: prints a Markdown table. About 15 minutes.

    sudo .venv/bin/python benchmarks/slurm_life.py --generation 22.05|24.11|openpbs [--only up,handover,node,probes]

The beds are the tests' own (tests/testbeds/slurm.py, slurm24.py, pbs.py): a login node and three nodes on
this machine. The engine is llama.cpp with SmolLM2; requests ask for one token, two a second.

- ``up``: start to the first completion; a new revision and the rollback under load; what ``down`` leaves.
- ``handover``: jobs of three minutes, three hand-overs under load.
- ``node``: a node loses its power; Slurm, which notices after 6 s of silence, has the job run elsewhere
  (OpenPBS: when its connection is given up, and 10 s more).
- ``probes``: the same where the scheduler waits for 5 minutes (its default): lemnos' own probes notice.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the beds are the tests'

from lemnos.models.progress import Silent  # noqa: E402
from lemnos.models.pull import pull  # noqa: E402
from lemnos.spec.deployment import ModelSpec  # noqa: E402
from tests.cluster_life import Life, failed, files_left  # noqa: E402
from tests.pbs_life import life_of  # noqa: E402
from tests.testbeds.fixtures import GENERATIONS  # noqa: E402
from tests.testbeds.pbs import Pbs, pbs  # noqa: E402
from tests.testbeds.slurm import Slurm  # noqa: E402
from tests.waiting import until  # noqa: E402

START_S = 10
"""What lemnos adds to ``time`` for the embedded engine's start."""
WALLTIME_S = 180
HAND_OVERS = 3
PARTS = ("up", "handover", "node", "probes")
ROOMS: dict[str, Any] = {**GENERATIONS, "openpbs": pbs}

FIRST = """
import json, sys, threading, time, urllib.request
url, model = sys.argv[1:]
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
began, answered = time.monotonic(), threading.Event()
def ask():
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 1}).encode()
    request = urllib.request.Request(url + "/completions", body, {"content-type": "application/json"})
    try:
        with direct.open(request, timeout=30):
            answered.set()
    except OSError:
        pass
while not answered.wait(0.25):
    threading.Thread(target=ask, daemon=True).start()
print(time.monotonic() - began)
"""

Row = tuple[str, str, str]


def main() -> None:
    """Measure, print, and exit 0 whatever the figures are: they are not a test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generation", choices=ROOMS, default="22.05")
    parser.add_argument("--only", default=",".join(PARTS))
    options = parser.parse_args()
    wanted = options.only.split(",")
    parts: dict[str, Callable[[Bed], list[Row]]] = {
        "up": up_and_back,
        "handover": hand_overs,
        "node": dead_node,
    }
    slurm = "" if options.generation == "openpbs" else "Slurm "
    tell(f"{slurm}{options.generation}", "wanted", "measured")
    tell("---", "---", "---")
    if any(part in wanted for part in parts):
        with brought_up(options.generation) as bed:
            for name, measure in parts.items():
                if name in wanted:
                    for row in measure(bed):
                        tell(*row)
    if "probes" in wanted:
        with brought_up(options.generation, down_after_s=300) as bed:
            for row in dead_node(bed):
                tell(*row)


@dataclass
class Bed:
    """A cluster, and lemnos on its login node."""

    cluster: Slurm | Pbs
    life: Life

    @property
    def on(self) -> str:
        return "pbs" if isinstance(self.cluster, Pbs) else "slurm"

    def up(self, *keys: str, more: tuple[str, ...] = ()) -> tuple[str, float, float]:
        """The deployment with these keys: (its URL, seconds to ready, seconds of the whole command)."""
        keys = ("cpus=2", "memory=1G", "poll_s=1", *keys)
        words = [word for key in keys for word in ("--set", f"{self.on}.{key}")]
        began = time.monotonic()
        found = self.life.up(*more, "--on", self.on, *words)
        whole = time.monotonic() - began
        return str(found["url"]), float(found["ready_s"]), whole

    def jobs(self) -> list[str]:
        """``ID NODE`` of each job that is there."""
        if isinstance(self.cluster, Pbs):
            return self.cluster.placed()
        return self.cluster.run("login", "squeue", "-h", "-o", "%i %N").splitlines()

    def down(self) -> str:
        """What ``down`` leaves, in words."""
        self.life.run("down", "--all")
        until(lambda: not self.jobs(), within_s=300)  # Slurm asks a revived node late
        hosts = ("login", *self.cluster.nodes)
        lines = [line for host in hosts for line in self.cluster.hosts.processes(host)]
        ours = [line for line in lines if "lemnos" in line and "python" in line]
        return f"{len(self.jobs())} jobs, {len(ours)} processes, {len(files_left(self.life.own))} files"


@contextmanager
def brought_up(generation: str, **options: Any) -> Iterator[Bed]:
    """A cluster and its user's lemnos; nothing of either is left."""
    models = ROOT / ".pytest_cache/d/lemnos-models"  # login sees the repository
    os.environ["LEMNOS_MODELS"] = str(models)
    pull(ModelSpec(source="smollm2"), Silent())
    with tempfile.TemporaryDirectory(prefix="lemnos-life-") as directory:
        home = Path(directory) / "home"
        home.mkdir()
        cluster = Path(directory) / "bed"
        cluster.mkdir()
        try:
            with ROOMS[generation](cluster, **options) as made:
                real = isinstance(made, Pbs)
                life = (
                    life_of(made, models)
                    if real
                    else Life(made.at("login"), home, models)
                )
                bed = Bed(made, life)
                try:
                    yield bed
                finally:
                    if bed.life.report("ps"):
                        bed.life.run("down", "--all", "--now")
        except pytest.skip.Exception as reason:
            sys.exit(str(reason))


def up_and_back(bed: Bed) -> list[Row]:
    """A start, a new revision and the way back under load, and the end."""
    url, ready_s, whole_s = bed.up("time=30m")
    with bed.life.load(url) as told:
        bed.up("time=30m", more=("--concurrency", "2"))
        bed.life.run("rollback")
    left = bed.down()
    return [
        ("`up` to the first completion through the endpoint", "", f"{ready_s:.1f} s"),
        ("the whole command `lemnos up`", "", f"{whole_s:.1f} s"),
        (
            "new revision, then `rollback`, 2 requests/s: failed",
            "0",
            f"{len(failed(told))} of {len(told)}",
        ),
        ("`down` leaves", "nothing", left),
    ]


def hand_overs(bed: Bed) -> list[Row]:
    """Jobs of three minutes, one after the other."""
    time_s = WALLTIME_S - START_S
    url, _, _ = bed.up(f"time={time_s}s", "drain_s=30")

    def handed_over() -> bool:
        """Whether the last successor has started, and its predecessor is gone."""
        last = bed.life.own.glob(f"state/deployments/*/engine-{HAND_OVERS}.log")
        return any(last) and len(bed.jobs()) == 1

    began = time.monotonic()
    with bed.life.load(url) as told:
        until(handed_over, within_s=(HAND_OVERS + 1) * WALLTIME_S)
    took = time.monotonic() - began
    served = len({who for status, who in told if status == 200})
    (shown,) = bed.life.report("ps")
    bed.down()
    return [
        (
            f"{HAND_OVERS} hand-overs of jobs of {WALLTIME_S} s, 2 requests/s: failed",
            "0",
            f"{len(failed(told))} of {len(told)}, from {served} jobs in {took:.0f} s",
        ),
        ("restarts meanwhile", "0", str(shown["restarts"])),
    ]


def dead_node(bed: Bed) -> list[Row]:
    """Seconds from a node's end to a completion from another one."""
    url, _, _ = bed.up("time=30m")
    ((job, node),) = (line.split() for line in bed.jobs())
    bed.cluster.kill_node(node)
    seconds = float(_first(bed, url))
    now = [line.split() for line in bed.jobs() if line.split()[1:] not in ([], [node])]
    same = any(each[0] == job for each in now)
    (shown,) = bed.life.report("ps")
    how = f"the same job, {shown['restarts']} restarts" if same else shown["why"]
    nodes = ", ".join(each[1] for each in now)
    bed.cluster.revive_node(node)
    bed.down()
    return [
        (
            "node killed: until a completion comes from another one",
            "",
            f"{seconds:.0f} s ({node}, then {nodes}: {how})",
        )
    ]


def _first(bed: Bed, url: str) -> str:
    """What FIRST printed."""
    words = [*bed.life.words, sys.executable, "-I", "-S", "-c", FIRST]
    done = subprocess.run(
        [*words, url, "smollm2-135m-instruct"],
        capture_output=True,
        text=True,
        timeout=420,
        check=True,
    )
    return done.stdout


def tell(*row: str) -> None:
    """A row of docs/results.md's table, as soon as it is known."""
    sys.stdout.write(f"| {' | '.join(row)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
