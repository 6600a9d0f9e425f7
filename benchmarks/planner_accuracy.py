"""The planner against measured engines: weights, KV-cache tokens, TTFT and TPOT.

    uv run benchmarks/planner_accuracy.py [FILE ...]     (default: benchmarks/measured/*.json)

Files have the shape of ``lemnos plan --calibrate``. The measurements were made with vLLM 0.26 on
H200s, full-size models and random weights. Prints a row a point, then the figures of the issue:
weights within 0.5 %, KV tokens within 2 %, TPOT median 10 % and worst 25 %, TTFT of a single
stream median 20 %; TTFT of several streams that were released at once is reported apart.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

from lemnos.hardware.catalogue import gpu_kind
from lemnos.models.describe import describe
from lemnos.planning.budget import Fit
from lemnos.planning.calibration import constants_for
from lemnos.planning.fitting import Measured, MeasuredFile
from lemnos.planning.measured import fitted_to, predicted
from lemnos.spec.document import load

HERE = Path(__file__).parent


def say(line: str) -> None:
    """A line of the report."""
    sys.stdout.write(line + "\n")


def main(files: list[Path]) -> None:
    memory: dict[str, tuple[float, float]] = {}
    tpots: list[float] = []
    alone: list[float] = []
    burst: list[float] = []
    for path in files:
        measured = load(path, MeasuredFile)
        constants = constants_for(measured.engine)
        say(f"\n{path.name}: predicted / measured")
        say(f"{'':44}{'streams':>8}{'prompt':>8}{'TTFT ms':>20}{'TPOT ms':>20}")
        for point in measured.points:
            architecture = describe(point.model)[0].architecture
            gpu = gpu_kind(point.gpu)
            name = _name(point)
            fitted, _ = fitted_to(point, architecture, gpu, constants)
            if isinstance(fitted, Fit) and point.kv_cache_tokens:
                if name not in memory:
                    memory[name] = _memory(name, fitted, point)
            ttft, tpot = predicted(point, architecture, gpu, constants)
            if not point.skip:
                tpots.append(abs(tpot / point.tpot_ms - 1))
                single = point.concurrency == 1
                (alone if single else burst).append(abs(ttft / point.ttft_ms - 1))
            say(
                f"{name:44}{point.concurrency:8}{point.input_tokens:8}"
                f"{ttft:10.1f}/{point.ttft_ms:<9.1f}{tpot:10.2f}/{point.tpot_ms:<9.2f}"
                f"{' not counted' if point.skip else ''}"
            )
    say("\nfigure                                        reached    wanted")
    if memory:
        weights = max(abs(error) for error, _ in memory.values())
        tokens = max(abs(error) for _, error in memory.values())
        _figure("weights, worst case", weights, 0.005)
        _figure("KV-cache tokens, worst case", tokens, 0.02)
    _figure("TPOT, median", median(tpots), 0.10)
    _figure("TPOT, worst", max(tpots), 0.25)
    if alone:
        _figure("TTFT of one stream, median", median(alone), 0.20)
    if burst:
        _figure("TTFT of several, released at once, median", median(burst), None)


def _name(point: Measured) -> str:
    parts = [point.model, str(point.layout)]
    parts += ["eager"] if point.eager else []
    parts += [point.kv_cache_dtype] if point.kv_cache_dtype != "auto" else []
    return " ".join(parts)


def _memory(name: str, fitted: Fit, point: Measured) -> tuple[float, float]:
    """Relative errors of weights and KV tokens; printed once a case."""
    weights = fitted.budget.weights / (point.weights_gib_per_rank or 1) - 1
    tokens = fitted.kv_tokens / (point.kv_cache_tokens or 1) - 1
    say(
        f"{name:44}weights {fitted.budget.weights:.2f}/{point.weights_gib_per_rank} GiB, "
        f"KV {fitted.kv_tokens}/{point.kv_cache_tokens} tokens"
    )
    return weights, tokens


def _figure(name: str, value: float, wanted: float | None) -> None:
    goal = f"{wanted:10.1%}" if wanted else "         -"
    say(f"{name:44}{value:9.2%}{goal}")


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    main(given or sorted((HERE / "measured").glob("*.json")))
