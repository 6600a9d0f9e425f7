"""What the gateway costs a stream: tokens/s through it, against the same engine directly.

    uv run python benchmarks/gateway_overhead.py ENGINE_URL KEY_FILE GATEWAY_URL MODEL

Interleaved, so that both sides see the same machine; medians; the ratio is what counts.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from pathlib import Path

from lemnos.benchmark.load import run
from lemnos.benchmark.report import figures
from lemnos.spec.record import BenchSpec

SPEC = BenchSpec(target="relay", requests=1, input_tokens=32, output_tokens=96)


def compare(
    *, direct: str, direct_key: str, through: str, model: str, repeats: int
) -> dict[str, float]:
    """Medians of ``repeats`` streams on either way, and their ratio."""
    speeds: dict[str, list[float]] = {"direct": [], "through": []}
    for _ in range(repeats):
        speeds["direct"].append(_tokens_per_s(direct, model, direct_key))
        speeds["through"].append(_tokens_per_s(through, model, None))
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    return {
        "direct_tokens_per_s": medians["direct"],
        "through_lemnos_tokens_per_s": medians["through"],
        "relay_ratio": medians["through"] / medians["direct"],
    }


def _tokens_per_s(url: str, model: str, key: str | None) -> float:
    """Of one whole request: from sending it to its last token."""
    samples = asyncio.run(run(SPEC, url, model, key))
    if samples[0].error:
        sys.exit(f"{url}: {samples[0].error}")
    return figures(samples)["output_tokens_per_s"]


if __name__ == "__main__":
    engine, key_file, gateway, name = sys.argv[1:]
    got = compare(
        direct=engine,
        direct_key=Path(key_file).read_text().strip(),
        through=gateway,
        model=name,
        repeats=10,
    )
    sys.stdout.write(json.dumps(got, indent=1) + "\n")
