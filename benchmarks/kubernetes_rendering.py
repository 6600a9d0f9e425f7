"""Seed 003's three deployments on Kubernetes, from the spec to valid objects: prints seconds, of the clock and of a core.

    uv run python benchmarks/kubernetes_rendering.py [--repeats N]

Each repeat plans, renders and validates all three, in one process; the first has whatever is read once
(flags of engines, strict schemas), and is told apart.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the schemas are the tests'

import lemnos  # noqa: E402
from lemnos.spec.plan import Plan  # noqa: E402
from tests.manifests import errors_of  # noqa: E402

PARTS = ("plan", "render", "validate")
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SPECS = sorted((ROOT / "examples/seed-003-kubernetes/specs").glob("*.yaml"))


def main() -> None:
    """Prints one line a repeat's part, medians last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    runs = [once() for _ in range(repeats + 1)]
    first, rest = runs[0], runs[1:]
    for name in first:
        wall, core = (statistics.median(run[name][i] for run in rest) for i in (0, 1))
        sys.stdout.write(f"{name:10} first {first[name][0]:.3f} s ({first[name][1]:.3f} of a core), then {wall:.3f} s ({core:.3f})\n")  # fmt: skip
    wall, core = (first["render"][i] + first["validate"][i] for i in (0, 1))
    sys.stdout.write(f"rendering and validating {len(SPECS)} in all, the first time: {wall:.3f} s ({core:.3f} of a core; wanted < 1 s)\n")  # fmt: skip


def once() -> dict[str, tuple[float, float]]:
    """Seconds of each part, of the clock and of a core. Raises SystemExit for an object that is not valid."""
    took: dict[str, tuple[float, float]] = {}
    marks = [now()]
    plans = [lemnos.plan(str(path)) for path in SPECS]
    marks.append(now())
    texts = [text for plan in plans for text in objects_of(plan)]
    marks.append(now())
    errors = [error for text in texts for error in errors_of(yaml.load(text, LOADER))]
    marks.append(now())
    if errors:
        sys.exit("\n".join(errors))
    for name, before, after in zip(PARTS, marks, marks[1:], strict=False):
        took[name] = (after[0] - before[0], after[1] - before[1])
    return took


def now() -> tuple[float, float]:
    """The clock, and what this process has had of a core."""
    return time.perf_counter(), time.process_time()


def objects_of(plan: Plan) -> list[str]:
    """The plan's objects as YAML."""
    return [
        text
        for unit in lemnos.rendered(plan).values()
        for name, text in unit.files.items()
        if name.endswith(".yaml")
    ]


if __name__ == "__main__":
    main()
