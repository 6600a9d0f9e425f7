"""Where nothing fits: the hardware that would do, and what offloading would do here. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

from lemnos.planning.budget import Fit, Miss
from lemnos.planning.calibration import Constants, constants_for
from lemnos.planning.layouts import Site, candidates, refusals, unsuitable
from lemnos.planning.options import Variant, best_fit
from lemnos.planning.pace import quick_pace, steps_of
from lemnos.planning.rules import EngineRules, rules_for
from lemnos.spec.layout import Layout
from lemnos.spec.proposal import Ask

OFFLOADS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""GiB a GPU of weights in host memory that are tried."""


def smallest_that_fits(
    variants: Sequence[Variant], sites: Sequence[Site], ask: Ask
) -> str | None:
    """The fewest GPUs of each kind at hand that would hold each variant; None: none do."""
    free = ask.model_copy(
        update={"tensor": None, "pipeline": None, "data": None, "expert": None}
    )
    found = []
    engine = ask.engine or "vllm"
    rules, constants = rules_for(engine, ask.engine_version), constants_for(engine)
    for site in {site.gpu.name: site for site in sites}.values():
        for variant in variants:
            for count in (1, 2, 4, 8, 16, 32, 64, 128):
                larger = dataclasses.replace(
                    site,
                    nodes=math.ceil(count / site.gpu.per_node),
                    per_node=min(count, site.gpu.per_node),
                    free_gib=site.memory_gib,
                )
                layout = _first_that_fits(
                    variant, larger, free, rules, constants, count
                )
                if layout:
                    found.append(
                        f"{variant.name} ({variant.architecture.stored}) on "
                        f"{count}x{site.gpu.name} ({layout})"
                    )
                    break
    return "; ".join(found) or None


def with_offload(
    variants: Sequence[Variant], sites: Sequence[Site], ask: Ask
) -> str | None:
    """What the GPUs at hand would hold with weights in host memory, and how slowly; None: nothing.

    The checkpoint that has to offload least is told: what lies on the host is read over the
    GPU's link to it at every step.
    """
    if ask.cpu_offload_gib:
        return None
    engine = ask.engine or "vllm"
    rules, constants = rules_for(engine, ask.engine_version), constants_for(engine)
    for gib in OFFLOADS:
        tried = ask.model_copy(update={"cpu_offload_gib": float(gib)})
        for variant in variants:
            for site in sites:
                found = _widest_that_fits(variant, site, tried, rules, constants)
                if found is None:
                    continue
                layout, fitted = found
                model = steps_of(variant.architecture, layout, site, fitted, constants)
                even = dataclasses.replace(
                    model, constants=constants.model_copy(update={"spread": 1.0})
                )
                low, high = (
                    quick_pace(each, fitted, ask, 1).tpot * 1e3
                    for each in (model, even)
                )
                return (
                    f"{variant.name} ({variant.architecture.stored}) as {layout} with "
                    f"--cpu-offload-gib {gib} a GPU, {fitted.host.needs:.0f} GiB of host memory a "
                    f"node: about {low:.0f} to {high:.0f} ms a token, never measured"
                )
    return None


def _widest_that_fits(
    variant: Variant, site: Site, ask: Ask, rules: EngineRules, constants: Constants
) -> tuple[Layout, Fit] | None:
    """On as many GPUs as there are: each brings its own link to the host."""
    kv_dtype = ask.kv_cache_dtype or "auto"
    layouts = sorted(_possible(variant, site, ask), key=lambda layout: -layout.gpus)
    for layout in layouts:
        if layout.gpus < layouts[0].gpus:
            return None
        fitted = best_fit(
            variant.architecture, layout, site, ask, rules, constants, kv_dtype
        )
        if not isinstance(fitted, Miss):
            return layout, fitted
    return None


def _first_that_fits(
    variant: Variant,
    site: Site,
    ask: Ask,
    rules: EngineRules,
    constants: Constants,
    count: int,
) -> Layout | None:
    """The plainest layout of ``count`` GPUs that holds the variant."""
    kv_dtype = ask.kv_cache_dtype or "auto"
    for layout in _possible(variant, site, ask):
        if layout.gpus != count:
            continue
        fitted = best_fit(
            variant.architecture, layout, site, ask, rules, constants, kv_dtype
        )
        if not isinstance(fitted, Miss):
            return layout
    return None


def _possible(variant: Variant, site: Site, ask: Ask) -> Iterator[Layout]:
    """Layouts that break no rule, the plainest first."""
    if unsuitable(variant.architecture, ask):
        return
    layouts = candidates(variant.architecture, site, ask)
    for layout in sorted(layouts, key=_plainness):
        if not refusals(variant.architecture, layout, site):
            yield layout


def _plainness(layout: Layout) -> tuple[int, ...]:
    """Layouts with fewer parts first."""
    return layout.pipeline, layout.data, layout.expert, layout.context
