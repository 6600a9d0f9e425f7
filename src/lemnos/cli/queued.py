"""``lemnos plan --on``: plans, and when a machine room would start them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lemnos
from lemnos.cli.output import err, out, print_json, table
from lemnos.cli.plan import figure, finish, show_chosen, show_rejected
from lemnos.errors import UsageError
from lemnos.queues.ranking import tokens_per_s
from lemnos.queues.words import length, when

if TYPE_CHECKING:
    from lemnos.queues.ranking import QueuedPlan, QueuedPlans
    from lemnos.spec.deployment import DeploymentSpec

SHOWN = 12


def plan_in_room(
    model: str | None,
    changes: dict[str, Any],
    asked: dict[str, Any],
    *,
    cluster: str | None,
    calibrate: Path | None,
    trust_headers: bool,
    save: Path | None,
    as_json: bool,
) -> None:
    """Print, and with ``save`` write, the plan for the room that ``changes`` or the spec name.

    Leaves with 1 where nothing fits, or the room would start none of it.
    """
    if model is None or not _for_gpus(
        spec := lemnos.deployment_spec(model, **changes), cluster
    ):
        _plan_embedded(model, changes, asked, save, as_json)
        return
    _check(spec, changes)
    found = lemnos.queued_plans(
        spec, cluster, trust_headers=trust_headers, calibrate=calibrate, **asked
    )
    finish(
        found,
        bool(found.startable),
        lemnos.queued_spec,
        _show,
        save=save,
        as_json=as_json,
    )


def _for_gpus(spec: DeploymentSpec, cluster: str | None) -> bool:
    if spec.engine:
        return spec.engine != "llamacpp"
    return lemnos.for_gpus(spec.model.source, cluster, spec.model.file)


def _check(spec: DeploymentSpec, changes: dict[str, Any]) -> None:
    if spec.on == "local" and changes["on"] is None:
        raise UsageError(
            "--via and --set are for a machine room, and none is named",
            fix="add --on slurm, --on pbs, or the like",
        )


def _plan_embedded(
    model: str | None,
    changes: dict[str, Any],
    asked: dict[str, Any],
    save: Path | None,
    as_json: bool,
) -> None:
    """The engine of the CPU has one layout: only the time of its start is asked."""
    import time

    from lemnos.cli.up import show_plan

    own = {key: asked.get(key) for key in ("context", "concurrency")}
    made = lemnos.plan(model, **changes, **own)
    _check(made.spec, changes)
    room = lemnos.room_for(made)
    if save:
        lemnos.save_spec(save, made.spec)
        err().print(f"wrote {save}", markup=False)
    if as_json:
        print_json({"plan": made, "room": room})
        return
    show_plan(made, False, commands=False)
    at = time.time()
    starts = "now" if room.free else when(room.starts_at, at)
    why = f": {room.why}" if room.why else ""
    out().print(f"  {made.spec.on} would start it: {starts}{why}", markup=False)


def _show(found: QueuedPlans) -> None:
    console = out()
    if not found.plans:
        console.print("[bold red]nothing fits[/]")
        show_rejected(found)
        return
    for line in found.headline.splitlines():
        console.print(line, style="bold", markup=False)
    _show_table(found)
    for plan in found.plans:
        if plan.refused:
            what = f"{plan.plan.divided} on {plan.gpus} x {plan.plan.gpu}"
            console.print(f"  refused: {what}: {plan.refused}", markup=False)
    for note in found.notes:
        console.print(f"  note: {note}", style="yellow", markup=False)
    if not found.startable:
        console.print(f"[bold red]{found.on} would start none of them[/]")
        return
    console.print(found.advice, style="bold green", markup=False)
    console.print()
    show_chosen(found.plans[0].plan)


def _show_table(found: QueuedPlans) -> None:
    priced = any(plan.plan.cost_per_hour for plan in found.plans)
    grid = table(
        *("", "GPUs", "model", "layout", "starts", "all of it", "first token in"),
        *("tokens/s", "TTFT ms", "TPOT ms", *(["cost/h"] if priced else [])),
        "why not now",
    )
    for number, plan in enumerate(found.plans[:SHOWN]):
        own = plan.plan
        cost = [figure(own.cost_per_hour) if own.cost_per_hour else ""]
        grid.add_row(
            ">" if number == 0 and not plan.refused else "",
            f"{plan.gpus} {own.gpu}",
            own.model,
            own.divided,
            *_times(plan, found.at),
            figure(tokens_per_s(own)),
            figure(own.ttft_ms_even_routing or own.ttft_ms),
            figure(own.tpot_ms_even_routing or own.tpot_ms),
            *(cost if priced else []),
            "" if plan.refused else plan.why,
        )
    out().print(grid)
    more = len(found.plans) - SHOWN
    if more > 0:
        out().print(f"  and {more} more: --json has them all", style="dim")


def _times(plan: QueuedPlan, at: float) -> tuple[str, str, str]:
    """When its first replica starts, when all have, and how long until the first token."""
    if plan.refused:
        return "refused", "", ""
    first = when(plan.first_at, at)
    some = 0 < plan.replicas_then < plan.replicas
    if some and plan.first_at is not None:
        first += f" ({plan.replicas_then * plan.size.total} GPUs)"
    told = plan.first_token_s
    return first, when(plan.full_at, at), "" if told is None else length(told)
