"""How long a whole ``lemnos plan`` takes, the process's start counted in.

    uv run benchmarks/search_time.py

Two searches: GLM-4.6 and its smaller checkpoints on 8 H200s, and on 1,000 nodes of eight kinds.
Medians of five runs after one that fills Python's bytecode cache, and as ratios to starting
``python -c pass`` with pydantic, so that machines can be compared. Wanted: 0.5 s and 5 s.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

KINDS = (
    *("8xH100", "4xH100", "8xA100-80", "1xGH200-96"),
    *("8xH200", "4xL40S", "8xB200", "4xGB200"),
)
RUNS = 5


def main() -> None:
    """Measure, and print JSON."""
    with tempfile.TemporaryDirectory() as directory:
        fleet = Path(directory) / "fleet.yaml"
        fleet.write_text(_fleet())
        small = _seconds("-m", "lemnos", *_plan("8xH200", 64))
        large = _seconds("-m", "lemnos", *_plan(str(fleet), 2000))
    start = _seconds("-c", "import pydantic, yaml, typer")
    found = {
        "imports_s": round(start, 3),
        "plan_8_gpus_s": round(small, 3),
        "plan_8_gpus_over_imports": round(small / start, 2),
        "plan_1000_nodes_s": round(large, 3),
        "plan_1000_nodes_over_imports": round(large / start, 2),
    }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def _plan(cluster: str, concurrency: int) -> list[str]:
    words = ["plan", "zai-org/GLM-4.6", "--cluster", cluster, "--json"]
    return [*words, "--concurrency", str(concurrency)]


def _fleet() -> str:
    """1,000 nodes, each written out, of eight kinds and three prices."""
    chance = random.Random(1)
    lines = ["nodes:"]
    for number in range(1000):
        kind, price = chance.choice(KINDS), chance.choice((20, 25, 30))
        lines.append(
            f"- {{name: n{number}, gpus: {kind}, cores: 64, price_per_hour: {price}}}"
        )
    return "\n".join(lines) + "\n"


def _seconds(*words: str) -> float:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    times = []
    for _ in range(RUNS + 1):
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, *words], check=True, capture_output=True, env=env
        )
        times.append(time.perf_counter() - begin)
    return median(times[1:])


if __name__ == "__main__":
    main()
