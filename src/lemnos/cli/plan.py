"""``lemnos plan``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from lemnos.cli import options
from lemnos.cli.output import Json, err, out, print_json, table
from lemnos.errors import UsageError

if TYPE_CHECKING:
    from lemnos.queues.ranking import QueuedPlans
    from lemnos.spec.deployment import DeploymentSpec
    from lemnos.spec.proposal import Proposal, Proposals

T = TypeVar("T")
SHOWN_PLANS, SHOWN_REJECTED = 6, 8
BAR = 60
"""Characters of the memory bar."""


def plan(
    model: options.Model = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="4xH200, 2x8xH100 (nodes x GPUs), or a cluster.yaml."),
    ] = None,
    tp: Annotated[
        int | None, typer.Option(min=1, help="Pin tensor parallelism.")
    ] = None,
    pp: Annotated[
        int | None, typer.Option(min=1, help="Pin pipeline parallelism.")
    ] = None,
    dp: Annotated[int | None, typer.Option(min=1, help="Pin data parallelism.")] = None,
    ep: Annotated[
        bool | None, typer.Option("--ep/--no-ep", help="Pin expert parallelism.")
    ] = None,
    dcp: Annotated[
        int | None, typer.Option(min=1, help="Pin decode context parallelism.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Pin the replicas.")
    ] = None,
    kv_cache_dtype: Annotated[
        str | None, typer.Option(help="Pin the KV cache: auto, fp8.")
    ] = None,
    context: options.Context = None,
    concurrency: options.Concurrency = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second, instead of a concurrency.")
    ] = None,
    input_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of a prompt.")
    ] = None,
    output_tokens: Annotated[
        int | None, typer.Option(min=1, help="Of an answer.")
    ] = None,
    gpu_memory_utilization: Annotated[
        float | None, typer.Option(help="Share of a GPU's memory the engine may use.")
    ] = None,
    max_batched_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-batched-tokens",
            "--max-num-batched-tokens",
            min=1,
            help="Of a step.",
        ),
    ] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help="Requests the engine runs at once.")
    ] = None,
    enforce_eager: Annotated[
        bool, typer.Option("--enforce-eager", help="Without CUDA graphs.")
    ] = False,
    quantization: Annotated[
        str | None, typer.Option(help="Quantize a BF16 checkpoint on load: fp8.")
    ] = None,
    speculative: Annotated[
        bool, typer.Option("--speculative", help="Load the MTP layers to speculate.")
    ] = False,
    cpu_offload_gib: Annotated[
        float | None,
        typer.Option(
            "--cpu-offload-gib",
            "--cpu-offload-gb",
            help="Weights of each GPU in host memory.",
        ),
    ] = None,
    kv_offload_gib: Annotated[
        float | None,
        typer.Option(
            "--kv-offload-gib",
            "--kv-offloading-size",
            help="Host memory of an engine for KV cache.",
        ),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Pin the engine: vllm, sglang.")
    ] = None,
    engine_version: Annotated[str | None, typer.Option(help="Its version.")] = None,
    slo: Annotated[
        str | None, typer.Option(help="What clients must get: ttft=1s,tpot=50ms.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="throughput (default), latency, cost, gpus.")
    ] = None,
    routing: Annotated[
        str | None,
        typer.Option(
            help="How a MoE's tokens are routed: alike (as measured), even (as real ones)."
        ),
    ] = None,
    split: Annotated[
        bool | None,
        typer.Option("--split/--no-split", help="Prefill and decode apart."),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            help="Replay a log (CSV or JSONL of time, input_tokens, output_tokens)."
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Refit the speed model to these measurements first (JSON)."),
    ] = None,
    trust_headers: Annotated[
        bool,
        typer.Option(
            "--trust-headers", help="Plan an unknown architecture from its tensors."
        ),
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write the chosen plan; 'lemnos up' takes it.")
    ] = None,
    revision: options.Revision = None,
    file: options.File = None,
    on: options.On = None,
    via: options.Via = None,
    set_: options.Set = None,
    as_json: Json = False,
) -> None:
    """Show what fits, how fast, and why not otherwise; start nothing."""
    import lemnos
    from lemnos.spec.proposal import Slo

    pinned: dict[str, Any] = {
        "tensor": tp,
        "pipeline": pp,
        "data": dp,
        "expert": ep,
        "context_parallel": dcp,
        "replicas": replicas,
        "kv_cache_dtype": kv_cache_dtype,
        "context": context,
        "concurrency": concurrency,
        "rate": rate,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "utilization": gpu_memory_utilization,
        "max_batched_tokens": max_batched_tokens,
        "max_seqs": max_num_seqs,
        "eager": enforce_eager or None,
        "quantization": quantization,
        "speculative": speculative or None,
        "cpu_offload_gib": cpu_offload_gib,
        "kv_offload_gib": kv_offload_gib,
        "engine": engine,
        "engine_version": engine_version,
        "slo": Slo.parse(slo) if slo else None,
        "objective": objective,
        "routing": routing,
        "split": split,
    }
    if on or via or set_:
        from lemnos.cli import queued

        if workload:
            raise UsageError("--workload replays a log on a cluster, and not with --on")
        spec: dict[str, Any] = {
            "on": on,
            "via": via,
            "settings": set_ or None,
            "revision": revision,
            "file": file,
        }
        asked = {key: value for key, value in pinned.items() if value is not None}
        queued.plan_in_room(
            model,
            spec,
            asked,
            cluster=cluster,
            calibrate=calibrate,
            trust_headers=trust_headers,
            save=save,
            as_json=as_json,
        )
        return
    if not lemnos.for_gpus(model, cluster, file):
        from lemnos.cli.up import show_plan

        made = lemnos.plan(
            model,
            context=context,
            concurrency=concurrency,
            revision=revision,
            file=file,
        )
        if save:
            lemnos.save_spec(save, made.spec)
            err().print(f"wrote {save}", markup=False)
        show_plan(made, as_json, commands=False)
        return
    found = lemnos.propose(
        str(model),
        cluster,
        workload=workload,
        calibrate=calibrate,
        trust_headers=trust_headers,
        revision=revision,
        **pinned,
    )
    finish(
        found, bool(found.plans), lemnos.planned_spec, _show, save=save, as_json=as_json
    )


def finish(
    found: T,
    works: bool,
    spec_of: Callable[[T], DeploymentSpec],
    show: Callable[[T], None],
    *,
    save: Path | None,
    as_json: bool,
) -> None:
    """Write the chosen plan to ``save``, show what was found, and leave with 1 where nothing works."""
    import lemnos

    if save and works:
        lemnos.save_spec(save, spec_of(found))
        err().print(f"wrote {save}", markup=False)
    if as_json:
        print_json(found)
    else:
        show(found)
    if not works:
        raise typer.Exit(1)


def _show(found: Proposals) -> None:
    if found.plans:
        show_chosen(found.plans[0])
        _show_table(found)
    else:
        out().print("[bold red]nothing fits[/]")
    show_rejected(found)
    _show_replayed(found)


def show_chosen(plan: Proposal) -> None:
    console = out()
    nodes = "node" if plan.nodes == 1 else "nodes"
    console.print(
        f"[bold]{plan.model}[/] ({plan.stored}) on {plan.engine} {plan.engine_version}: "
        f"[bold]{plan.divided}[/], {plan.gpus} x {plan.gpu} on {plan.nodes} {nodes}"
    )
    for pool in plan.pools:
        console.print(
            f"  and {pool.layout} on {pool.gpus} x {pool.gpu}: "
            f"{pool.output_tokens_per_s:.0f} tokens/s of the sum",
            markup=False,
        )
    for label, value, interval, unit in (
        ("first token", plan.ttft_ms, plan.ttft_ms_interval, "ms"),
        ("each later one", plan.tpot_ms, plan.tpot_ms_interval, "ms"),
        (
            "throughput",
            plan.output_tokens_per_s,
            plan.output_tokens_per_s_interval,
            "tokens/s",
        ),
        ("ready in", plan.ready_s, plan.ready_s_interval, "s"),
    ):
        low, high = interval
        console.print(
            f"  {label:15}{figure(value)} {unit}   ({figure(low)} to {figure(high)})",
            markup=False,
        )
    if plan.tpot_ms_even_routing and plan.tpot_ms_even_routing > plan.tpot_ms:
        console.print(
            "  The middle figures are as measured, with random weights, whose tokens all go to "
            "the same experts.\n  Real tokens spread over the experts, nearly evenly: expect up to "
            f"[bold]{figure(plan.tpot_ms_even_routing)} ms[/] each, first token "
            f"{figure(plan.ttft_ms_even_routing or 0)} ms, "
            f"{figure(plan.output_tokens_per_s_even_routing or 0)} tokens/s. "
            "Plans are chosen by these.",
            style="yellow",
        )
    if plan.meets_slo is not None:
        word = "kept" if plan.meets_slo else "[red]not kept[/]"
        console.print(f"  {'service level':15}{word}")
    if plan.cost_per_hour is not None:
        console.print(
            f"  {'cost':15}{plan.cost_per_hour:.2f} an hour, "
            f"{plan.cost_per_million_tokens:.2f} a million output tokens"
        )
    _show_memory(plan)
    for reason in plan.reasons:
        console.print(f"  {reason}", markup=False)
    for warning in plan.warnings:
        console.print(f"  note: {warning}", style="yellow", markup=False)


def _show_memory(plan: Proposal) -> None:
    """A bar of one GPU's memory; parts in the order of the legend."""
    memory = plan.memory
    parts = (
        ("weights", memory.weights, "blue"),
        ("activation", memory.activation, "magenta"),
        ("graphs", memory.graphs + memory.other, "yellow"),
        ("KV cache", memory.kv_cache, "green"),
        ("unused", memory.unused, "dim"),
    )
    marks = "#+*=."
    bar = ""
    for (_, size, colour), mark in zip(parts, marks, strict=True):
        bar += f"[{colour}]{mark * round(size / memory.total * BAR)}[/]"
    console = out()
    console.print(f"  memory of a GPU {bar} {memory.total:.1f} GiB")
    legend = "  ".join(
        f"{mark} {name} {size:.1f}"
        for (name, size, _), mark in zip(parts, marks, strict=True)
    )
    console.print(f"                  {legend}", markup=False)
    console.print(
        f"  KV cache holds {plan.kv_cache_tokens:,} tokens a replica: "
        f"{plan.kv_concurrency:.1f} requests of the full {plan.settings.context:,}",
        markup=False,
    )
    free = "" if plan.host.free is None else f" of {plan.host.free:.0f} free"
    console.print(
        f"  host memory {plan.host.needs:.0f} GiB a node{free}: processes "
        f"{plan.host.processes:.0f}, offloaded weights {plan.host.weights:.0f}, "
        f"offloaded KV cache {plan.host.kv_cache:.0f}",
        markup=False,
    )


def _show_table(found: Proposals) -> None:
    grid = table(
        *("", "model", "layout", "GPUs", "KV", "KV tokens", "TTFT ms", "TPOT ms"),
        *("tokens/s", "even routing", "SLO"),
    )
    for number, plan in enumerate(found.plans[:SHOWN_PLANS]):
        kept = {True: "kept", False: "missed", None: ""}[plan.meets_slo]
        grid.add_row(
            ">" if number == 0 else "*" if number in found.pareto else "",
            plan.model,
            plan.divided,
            f"{plan.gpus} {plan.gpu}",
            plan.settings.kv_cache_dtype,
            f"{plan.kv_cache_tokens:,}",
            figure(plan.ttft_ms),
            figure(plan.tpot_ms),
            figure(plan.output_tokens_per_s),
            (
                f"{figure(plan.tpot_ms_even_routing)} ms, "
                f"{figure(plan.output_tokens_per_s_even_routing or 0)}/s"
                if plan.tpot_ms_even_routing
                else ""
            ),
            kept,
        )
    out().print(grid)
    out().print("  > chosen   * no other plan beats it", style="dim", markup=False)


def show_rejected(found: Proposals | QueuedPlans) -> None:
    console = out()
    if not found.rejected and not found.smallest:
        return
    console.print("[bold]why not[/]")
    for each in found.rejected[:SHOWN_REJECTED]:
        console.print(f"  {each.option}: {each.reason}", markup=False)
    more = len(found.rejected) - SHOWN_REJECTED
    if more > 0:
        console.print(f"  and {more} more: --json has them all", style="dim")
    if found.smallest:
        console.print(f"  smallest that fits: {found.smallest}", markup=False)
    if found.with_offload:
        console.print(f"  here, by offloading: {found.with_offload}", markup=False)


def _show_replayed(found: Proposals) -> None:
    console = out()
    for line in found.replayed:
        console.print(
            f"  {line.layout} on {line.gpus} x {line.gpu}: of {line.requests} logged requests, "
            f"p95 TTFT would have been {figure(line.ttft_p95_ms_interval[0])} to "
            f"{figure(line.ttft_p95_ms_interval[1])} ms, median TPOT {figure(line.tpot_p50_ms)} ms",
            markup=False,
        )


def figure(value: float) -> str:
    """Three significant digits, and no exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
