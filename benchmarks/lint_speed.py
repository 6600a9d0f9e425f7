"""How long ``lemnos lint`` takes for a script of 1,000 lines: the whole process, schemas loaded.

    uv run benchmarks/lint_speed.py          (wanted: under 0.3 s)
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LINES = 1_000
TIMES = 7

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
        whole = _median(words)
    bare = _median([sys.executable, "-c", "pass"])
    typer = _median([sys.executable, "-c", "import lemnos.cli.main"])
    sys.stdout.write(
        f"{LINES} lines, {said.stdout.splitlines()[-1]}\n"
        f"whole process: {whole:.2f} s (median of {TIMES}; wanted < 0.3 s)\n"
        f"of which Python's start {bare:.2f} s, the command line {typer - bare:.2f} s\n"
    )


def _median(words: list[str]) -> float:
    times = []
    for _ in range(TIMES):
        start = time.perf_counter()
        subprocess.run(words, capture_output=True, check=False)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
