# /// script
# requires-python = ">=3.11"
# dependencies = ["aiconfigurator==0.12.0"]
# ///
"""The planner beside aiconfigurator 0.12: the same questions, the answers' times, one machine.

    uv run benchmarks/planner_peers.py

Both are asked for 8 H200s with vLLM, 1024 + 256 tokens, as whole processes, once to fill caches
and once for the time. aiconfigurator is given the config.json that lemnos ships, so that nothing
is downloaded. Prints a line a tool and model: seconds, and the best throughput or the refusal.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "src/lemnos/models/configs"
LEMNOS = ROOT / ".venv/bin/lemnos"
PEER = Path(sys.executable).with_name("aiconfigurator")
MODELS = ("qwen3-32b", "qwen3-235b-a22b", "glm-4.6")


def main() -> None:
    """Ask both of every model."""
    for name in MODELS:
        ours = [str(LEMNOS), "plan", name, "--cluster", "8xH200", "--json"]
        ours += "--concurrency 256 --input-tokens 1024 --output-tokens 256".split()
        seconds, done = _timed(ours)
        best = json.loads(done.stdout)["plans"][0]
        _say("lemnos", name, seconds, f"{best['output_tokens_per_s']:.0f} tokens/s")
        with tempfile.TemporaryDirectory() as directory:
            model = Path(directory) / name
            model.mkdir()
            config = (CONFIGS / f"{name}.json").read_text()
            (model / "config.json").write_text(config)
            theirs = [str(PEER), "cli", "default", "--model", str(model)]
            theirs += ["--total-gpus", "8", "--system", "h200_sxm", "--backend", "vllm"]
            theirs += "--isl 1024 --osl 256 --ttft 5000 --tpot 100".split()
            seconds, done = _timed(theirs)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line]
        what = "answered" if done.returncode == 0 else lines[-1][:90]
        _say("aiconfigurator", name, seconds, what)


def _timed(command: list[str]) -> tuple[float, subprocess.CompletedProcess[str]]:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    for _ in range(2):
        begin = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=env, timeout=600
        )
        seconds = time.perf_counter() - begin
    return seconds, done


def _say(tool: str, model: str, seconds: float, what: str) -> None:
    sys.stdout.write(f"{tool:16}{model:20}{seconds:7.2f} s   {what}\n")


if __name__ == "__main__":
    main()
