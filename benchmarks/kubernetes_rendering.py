"""Seed 003's three deployments on Kubernetes, from the spec to valid objects: prints seconds.

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

SPECS = sorted((ROOT / "examples/seed-003-kubernetes/specs").glob("*.yaml"))


def main() -> None:
    """Prints one line a repeat's part, medians last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    runs = [once() for _ in range(repeats + 1)]
    first, rest = runs[0], runs[1:]
    for name in first:
        median = statistics.median(run[name] for run in rest)
        sys.stdout.write(f"{name:20} first {first[name]:.3f} s, then {median:.3f} s\n")
    whole = sum(seconds for name, seconds in first.items() if name != "plan")
    sys.stdout.write(f"rendering and validating {len(SPECS)} in all, the first time: {whole:.3f} s (wanted < 1 s)\n")  # fmt: skip


def once() -> dict[str, float]:
    """Seconds of each part. Raises SystemExit for an object that is not valid."""
    took: dict[str, float] = {}
    began = time.perf_counter()
    plans = [lemnos.plan(str(path)) for path in SPECS]
    took["plan"] = time.perf_counter() - began
    began = time.perf_counter()
    texts = [text for plan in plans for text in objects_of(plan)]
    took["render"] = time.perf_counter() - began
    began = time.perf_counter()
    errors = [error for text in texts for error in errors_of(yaml.safe_load(text))]
    took["validate"] = time.perf_counter() - began
    if errors:
        sys.exit("\n".join(errors))
    return took


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
