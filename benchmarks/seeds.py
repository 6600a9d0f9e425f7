"""Each seed's own hardware and model, planned: what was claimed, what is true, what to do.

    uv run benchmarks/seeds.py          (a minute's reading; a few seconds to run)

Claims are the seeds' words. Everything in the two other columns is computed by the planner when
this runs; nothing is written down here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from lemnos.proposals import propose
from lemnos.spec.proposal import Proposal, Proposals


@dataclass(frozen=True)
class Claim:
    """A seed's claim, and how the planner is asked about it."""

    seed: str
    claim: str
    model: str
    cluster: str
    asked: dict[str, Any]
    advise: Callable[[Proposals], str] | None = None


def _eager_costs(found: Proposals) -> str:
    """Seed 005's --enforce-eager, beside the same without it."""
    graphs = propose("glm-4.6", "8xH200", tensor=8, expert=True, **_SEED5).plans[0]
    sliced = propose("glm-4.6", "8xH200", tensor=8, expert=False, **_SEED5).plans[0]
    return (
        f"leave --enforce-eager away: {graphs.tpot_ms:.1f} ms a token instead of "
        f"{found.plans[0].tpot_ms:.0f}; without EP the weights a GPU are the same "
        f"{sliced.weights_gib_per_rank:.1f} GiB, and {sliced.tpot_ms:.1f} ms a token"
    )


_SEED5: dict[str, Any] = {
    "kv_cache_dtype": "fp8",
    "utilization": 0.95,
    "context": 32768,
    "max_seqs": 8,
    "max_batched_tokens": 32768,
    "concurrency": 1,
    "input_tokens": 6100,
    "output_tokens": 512,
    "pipeline": 1,
    "data": 1,
}

CLAIMS = (
    Claim(
        "1 (2 x GH200)",
        "GLM-4.6 FP8 is ~92 GB: 2 nodes (195.6 GB) run it, TP2, 32k",
        "glm-4.6-fp8",
        "2xGH200",
        {"context": 32768, "concurrency": 64},
    ),
    Claim(
        "1 (4 x GH200)",
        "4 nodes (391.2 GB) can run AWQ or BF16, 131k",
        "glm-4.6",
        "4xGH200",
        {"context": 131072, "concurrency": 128},
    ),
    Claim(
        "2 (2 x H100)",
        "GLM-4.5-Air BF16: 2 x H100 are sufficient",
        "zai-org/GLM-4.5-Air",
        "2xH100",
        {"context": 4096, "concurrency": 1},
    ),
    Claim(
        "2 (2 x H100)",
        "GLM-4.5-Air FP8: ~50.56 GiB a GPU, 73 to 85 tokens/s",
        "zai-org/GLM-4.5-Air-FP8",
        "2xH100",
        {"context": 4096, "concurrency": 1, "utilization": 0.9},
    ),
    *(
        Claim(f"3 ({cluster})", claim, model, cluster, {"context": context})
        for claim, model, cluster, context in (
            ("GPT-OSS-20B: 1 GPU, 24 GB, 128k", "gpt-oss-20b", "1xH100", 131072),
            ("GPT-OSS-120B: 1 GPU, 80 GB, 128k", "gpt-oss-120b", "1xH100", 131072),
            ("GLM-4.7-Flash: 2 GPUs, 128k", "glm-4.7-flash", "2xH100", 131072),
            ("GLM-4.6V FP8: 2 GPUs, 128k", "glm-4.6v-fp8", "2xH100", 131072),
            ("GLM-4.6V FP16: 4 GPUs, 128k", "glm-4.6v", "4xH100", 131072),
            ("Llama-4-Scout: 2 GPUs, 10M", "llama-4-scout", "2xH100", 10_485_760),
            ("GLM-4.7: 2 nodes, 8 GPUs, 131k", "glm-4.7", "2x4xH100", 131072),
            (
                "Qwen3-VL-235B: 2 nodes, 8 GPUs, 256k",
                "qwen3-vl-235b-a22b",
                "2x4xH100",
                262144,
            ),
            (
                "Llama-4-Maverick: 2 nodes, 8 GPUs, 1M",
                "llama-4-maverick-fp8",
                "2x4xH100",
                1_048_576,
            ),
        )
    ),
    Claim(
        "4 (4 x GB200)",
        "GLM-4.7-NVFP4 on one node, TP4, FP8 KV cache: works",
        "glm-4.7-nvfp4",
        "4xGB200",
        {"tensor": 4, "kv_cache_dtype": "fp8", "concurrency": 16},
    ),
    Claim(
        "4 (16 x GB200)",
        "prefill with TP16 over 4 nodes",
        "glm-4.7-nvfp4",
        "16xGB200",
        {"tensor": 16, "kv_cache_dtype": "fp8", "concurrency": 16},
    ),
    Claim(
        "4 (8 x GB200)",
        "1P+1D of TP4 on 2 nodes: ~2,100 tokens/s",
        "glm-4.7-nvfp4",
        "8xGB200",
        {"tensor": 4, "kv_cache_dtype": "fp8", "concurrency": 64, "split": True},
    ),
    Claim(
        "5 (8 x H200)",
        "GLM-4.6 TP8 EP, --enforce-eager: 82.6 GiB, 8.69 tokens/s, 'recommended'",
        "glm-4.6",
        "8xH200",
        {**_SEED5, "tensor": 8, "expert": True, "eager": True},
        _eager_costs,
    ),
)


def main() -> None:
    """Plan every claim, and print the table."""
    table = Table(show_lines=True)
    for column in ("seed", "claimed", "true", "do"):
        table.add_column(column, overflow="fold")
    for claim in CLAIMS:
        found = propose(claim.model, claim.cluster, **claim.asked)
        asked_for = _asked_for(claim, found)
        table.add_row(
            claim.seed,
            claim.claim,
            _truth(claim, found, asked_for),
            _advice(claim, found, asked_for),
        )
    Console(file=sys.stdout, width=170).print(table)


def _asked_for(claim: Claim, found: Proposals) -> Proposal | None:
    """The best plan of the very checkpoint that was claimed."""
    name = claim.model.lower().rpartition("/")[2]
    return next((plan for plan in found.plans if plan.model == name), None)


def _truth(claim: Claim, found: Proposals, plan: Proposal | None) -> str:
    if plan is None:
        name = claim.model.lower().rpartition("/")[2]
        first = next(
            each.reason for each in found.rejected if f"{name}," in each.option + ","
        )
        return f"does not fit: {first}"
    speed = 1000 / plan.tpot_ms
    even = plan.tpot_ms_even_routing
    slow = f", {1000 / even:.0f} with even routing" if even else ""
    return (
        f"fits: {plan.layout}, weights {plan.weights_gib_per_rank:.1f} GiB a GPU, KV cache "
        f"{plan.memory.kv_cache:.1f} GiB = {plan.kv_cache_tokens:,} tokens "
        f"({plan.kv_concurrency:.1f} full contexts); {speed:.0f} tokens/s a stream{slow}; "
        f"{plan.output_tokens_per_s:.0f} tokens/s at {found.asked.concurrency} streams"
    )


def _advice(claim: Claim, found: Proposals, plan: Proposal | None) -> str:
    if claim.advise and found.plans:
        return claim.advise(found)
    if plan is not None:
        return "; ".join(plan.reasons) or "as planned"
    if found.plans:
        other = found.plans[0]
        tight = "; ".join(other.reasons)
        return f"{other.model} ({other.stored}), {other.layout}" + (
            f": {tight}" if tight else ""
        )
    return f"smallest that fits: {found.smallest}"


if __name__ == "__main__":
    main()
