"""How long ``lemnos lint`` takes for a script of 1,000 lines: the whole process, schemas loaded.

uv run benchmarks/lint_speed.py          (wanted: under 0.3 s)
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LINES = 1_000
TIMES = 11

HEAD = """#!/bin/bash
#SBATCH --nodes=1
#SBATCH --gres=gpu:8
export NCCL_DEBUG=WARN
MODEL=zai-org/GLM-4.6-FP8
"""
COMMAND = """vllm serve "$MODEL" \\
    --tensor-parallel-size 8 \\
    --max-model-len 32768 \\
    --gpu-memory-utilization 0.9 \\
    --tool-call-parser glm45 --enable-auto-tool-choice \\
    --swap-space 4 \\
    --host 127.0.0.1 --port {port} > logs/{port}.log 2>&1 &
"""
FILLER = """for attempt in 1 2 3; do
    curl -s "http://127.0.0.1:{port}/health" && break   # until it answers
    sleep $((attempt * 10)); echo "waiting for ${{NAME:-{port}}}" >&2
done
"""


def script(lines: int = LINES) -> str:
    """A batch script: ten engines' commands, and what people write around them."""
    text = HEAD
    port = 8000
    while text.count("\n") < lines - 4:
        if port < 8010:
            text += COMMAND.format(port=port)
        text += FILLER.format(port=port)
        port += 1
    return text + "wait\n" * (lines - text.count("\n"))


def main() -> None:
    """Print the whole process's time, and what parts of it are the interpreter and typer."""
    with tempfile.TemporaryDirectory(prefix="lemnos-lint-") as scratch:
        path = Path(scratch) / "serve.sbatch"
        path.write_text(script())
        words = [sys.executable, "-m", "lemnos", "lint", str(path)]
        words += ["--engine-version", "0.32.0"]
        said = subprocess.run(words, capture_output=True, text=True, check=False)
        whole = _times(words)
    typer = _times([sys.executable, "-c", "import lemnos.cli.main"])
    load, _, _ = os.getloadavg()
    sys.stdout.write(
        f"{LINES} lines, {said.stdout.splitlines()[-1]}\n"
        f"whole process: {whole[0]:.2f} s at best, {whole[1]:.2f} s median of {TIMES}, "
        f"{whole[2]:.2f} s of CPU (wanted < 0.3 s)\n"
        f"of which Python and the command line: {typer[0]:.2f} s at best, {typer[2]:.2f} s "
        f"of CPU; load of the machine {load:.1f} on {os.cpu_count()} cores\n"
    )


def _times(words: list[str]) -> tuple[float, float, float]:
    """(best, median, least CPU) of the whole process, in seconds."""
    walls, processors = [], []
    for _ in range(TIMES):
        start, before = time.perf_counter(), _processor()
        subprocess.run(words, capture_output=True, check=False)
        walls.append(time.perf_counter() - start)
        processors.append(_processor() - before)
    return min(walls), statistics.median(walls), min(processors)


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
