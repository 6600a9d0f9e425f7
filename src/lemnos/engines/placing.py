"""What every GPU engine asks before it renders: is there a layout, and does it go on the hosts. Pure."""

from __future__ import annotations

from typing import Any

from lemnos.errors import UsageError
from lemnos.spec.layout import Layout
from lemnos.spec.place import Place
from lemnos.spec.plan import Plan
from lemnos.spec.proposal import Proposal


def planned(plan: Plan) -> Proposal:
    """The plan's layout and settings. Raises UsageError where it has none."""
    if plan.proposal is None:
        raise UsageError(
            f"{plan.name} has no layout to run {plan.engine} with",
            fix="make one: lemnos plan MODEL --cluster 4xH200 --save plan.yaml",
        )
    return plan.proposal


def reasoning_switch(plan: Plan) -> dict[str, Any]:
    """``chat_template_kwargs`` that make the model reason, or not, as the spec wants; empty where
    it does so by itself. Raises UsageError where it cannot."""
    wanted, quirks = plan.spec.reasoning, plan.quirks
    if wanted is None or quirks.reasons_by_default == (wanted == "on"):
        return {}
    if switch := quirks.reasoning_on if wanted == "on" else quirks.reasoning_off:
        return switch
    does = "always reasons" if quirks.reasons_by_default else "does not reason"
    raise UsageError(
        f"{plan.model.name} {does}: lemnos knows no switch for it",
        where="reasoning",
        fix="leave it out, or choose another model",
    )


def speculation(plan: Plan, proposal: Proposal) -> dict[str, Any]:
    """The flags that speculate as planned. Raises UsageError where the version has none for the model."""
    if not proposal.settings.speculative:
        return {}
    if not plan.quirks.speculation:
        raise UsageError(
            f"{plan.engine} {plan.engine_version} does not speculate with MTP layers of "
            f"{plan.model.name}",
            fix="plan without --speculative, or use a newer version, or a checkpoint with the layers",
        )
    return plan.quirks.speculation


def possible(
    layout: Layout, place: Place, engine: str, *, data_over_hosts: bool = False
) -> None:
    """Raises UsageError where ``layout`` does not go on the hosts of ``place``.

    ``data_over_hosts``: a data-parallel rank may span hosts.
    """
    hosts = len(place.hosts)
    if place.gpus_per_host and layout.gpus > hosts * place.gpus_per_host:
        raise UsageError(
            f"{layout} needs {layout.gpus} GPUs, and {hosts} x {place.gpus_per_host} are given",
            fix="give more hosts, or plan for these: lemnos plan --cluster",
        )
    if layout.gpus % hosts:
        raise UsageError(
            f"{layout} cannot be divided evenly over {hosts} hosts",
            fix=f"give 1 host, or a number that divides {layout.gpus}",
        )
    local = layout.gpus // hosts
    cut = hosts > 1 and local % (layout.tensor * layout.pipeline)
    if layout.data > 1 and cut and not data_over_hosts:
        raise UsageError(
            f"{engine} keeps each data-parallel rank on one host, and {layout} on {hosts} hosts "
            "would cut one",
            fix="choose a TP that divides a host's GPUs, or replicas instead of --dp",
        )
