"""How long rendering takes, for every target: prints a Markdown table.

    uv run python benchmarks/rendering.py [--repeats 50]

From a plan to all that ``up --dry-run --output`` writes: places, jobs, scripts, units and commands of
every replica and of the gateway, in one process; the first time is told apart (templates are
compiled then). Specs are those of examples/. Wanted: under 50 ms.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = "embedded/deployment.yaml"
VLLM = "seed-004-pbs/specs/best.yaml"
DYNAMO = "seed-003-dynamo-slurm/specs/4p2d.yaml"

TWO_NODES = ("plan.nodes=2",)
TARGETS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "local, embedded engine": (EMBEDDED, "local", ()),
    "local, vLLM on 8 GPUs": (VLLM, "local", ()),
    "local, 100 embedded replicas": (EMBEDDED, "local", ("replicas=100",)),
    "systemd, vLLM": (VLLM, "systemd", ()),
    "systemd, vLLM on Ray, 2 hosts": (
        *(VLLM, "systemd"),
        (
            *TWO_NODES,
            "systemd.ray=true",
            "systemd.scope=system",
            "systemd.hosts=[h1, h2]",
        ),
    ),
    "Slurm, vLLM on one node": (VLLM, "slurm", ()),
    "Slurm, vLLM on 2 nodes": (VLLM, "slurm", TWO_NODES),
    "Slurm, Dynamo 4P+2D on 6 nodes, Pyxis": (DYNAMO, "slurm", ()),
    "PBS, vLLM on one node": (VLLM, "pbs", ()),
    "PBS, vLLM on 2 nodes": (VLLM, "pbs", TWO_NODES),
} | {
    f"{runtime} on {on}, vLLM": (
        VLLM,
        on,
        (f"container.runtime={runtime}", "container.image=vllm/vllm-openai:v0.26.0"),
    )
    for runtime, on in (
        ("docker", "local"),
        ("podman", "systemd"),
        ("apptainer", "pbs"),
        ("pyxis", "slurm"),
    )
}


def main() -> None:
    """Measure, print, and exit 0 whatever the figures are: they are not a test."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=50)
    repeats = parser.parse_args().repeats
    sys.stdout.write("| target | files | first ms | median ms | worst ms |\n")
    sys.stdout.write("|---|---|---|---|---|\n")
    with tempfile.TemporaryDirectory() as home:
        os.environ["LEMNOS_HOME"] = home
        for name, (spec, on, settings) in TARGETS.items():
            files, times = measured(spec, on, list(settings), repeats)
            first, *rest = times
            sys.stdout.write(
                f"| {name} | {files} | {first:.1f} | {statistics.median(rest):.1f} "
                f"| {max(rest):.1f} |\n"
            )


def measured(
    spec: str, on: str, settings: list[str], repeats: int
) -> tuple[int, list[float]]:
    """Files that a target has, and the milliseconds of each rendering."""
    import lemnos

    plan = lemnos.plan(ROOT / "examples" / spec, on=on, settings=settings)
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        found = lemnos.rendered(plan)
        times.append((time.perf_counter() - began) * 1000)
    return sum(len(unit.files) for unit in found.values()), times


if __name__ == "__main__":
    main()
