"""Every layout that fits a variant on a site, and why the others do not. Pure."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from lemnos.planning.budget import Fit, Miss, fit, settings_for
from lemnos.planning.calibration import Constants
from lemnos.planning.layouts import Site, candidates, refusals, unsuitable
from lemnos.planning.memory import GIB
from lemnos.planning.pace import Pace, quick_pace, ready_seconds, steps_of
from lemnos.planning.rules import EngineRules, rules_for
from lemnos.planning.speed import StepModel
from lemnos.spec.architecture import Architecture
from lemnos.spec.layout import Layout
from lemnos.spec.proposal import Ask, EngineName, Role

WIDEST = 4
"""Beyond a node, layouts are looked at up to this many times the smallest that fits."""
CONTEXTS = (131072, 65536, 32768, 16384, 8192, 4096, 2048)
"""What to try where none is asked for and the model's own does not fit."""


@dataclass(frozen=True)
class Variant:
    """A checkpoint of the model."""

    name: str
    source: str
    architecture: Architecture
    compromise: int = 0
    """0: what was asked for; then its other checkpoints, the smaller the later."""


@dataclass(frozen=True)
class Refused:
    """A layout that was not taken; the nearest misses are told first."""

    option: str
    reason: str
    rule: str
    variant: int
    need_gib: float = 0.0
    """Of memory, where that is what lacks: less is nearer to fitting."""

    @property
    def order(self) -> tuple[int, bool, float]:
        return self.variant, self.rule != "memory", self.need_gib


@dataclass(frozen=True)
class Option:
    """A layout that fits, with its closed-form pace."""

    variant: Variant
    site: Site
    engine: EngineName
    rules: EngineRules
    constants: Constants
    layout: Layout
    fitted: Fit
    model: StepModel
    """With the routing that was measured; ``even`` is the same with even routing."""
    even: StepModel
    pace: Pace
    even_pace: Pace
    ready: tuple[float, float]
    compromise: int
    roles: Role | None = None

    @property
    def gpus(self) -> int:
        return self.layout.gpus * self.layout.replicas

    def expected(self, ask: Ask) -> Pace:
        """What choices are made by: even routing, unless alike routing is asked for."""
        return self.pace if ask.routing == "alike" else self.even_pace


def options_of(
    variant: Variant, site: Site, engine: EngineName, constants: Constants, ask: Ask
) -> tuple[list[Option], list[Refused]]:
    """(layouts that fit, each with its closed-form pace; those that do not, with the reasons)."""
    rules = rules_for(engine, ask.engine_version)
    options: list[Option] = []
    rejected: list[Refused] = []
    architecture = variant.architecture
    if found := unsuitable(architecture, ask):
        rule, sentence = found
        return [], [Refused(variant.name, sentence, rule, 0)]
    largest = math.inf
    for layout in sorted(candidates(architecture, site, ask), key=_size):
        if layout.gpus > largest:
            break
        name = f"{site.gpus}x{site.gpu.name}, {variant.name}, {layout}"
        broken = refusals(architecture, layout, site)
        if broken:
            rule, sentence = broken[0]
            rejected.append(Refused(name, sentence, rule, 0))
            continue
        miss: Miss | None = None
        for kv_dtype in _kv_dtypes(ask):
            fitted = best_fit(
                architecture, layout, site, ask, rules, constants, kv_dtype
            )
            if isinstance(fitted, Miss):
                miss = fitted
                continue
            miss = None
            replicas = _replicas(layout, site, fitted, ask)
            if not replicas:
                continue
            largest = min(largest, max(site.domain, WIDEST * layout.gpus))
            whole = layout.model_copy(update={"replicas": replicas})
            options.append(
                _option(variant, site, engine, rules, constants, whole, fitted, ask)
            )
        if miss:
            rejected.append(Refused(name, miss.sentence, "memory", 0, miss.need_gib))
    return options, rejected


def _size(layout: Layout) -> int:
    return layout.gpus


def _option(
    variant: Variant,
    site: Site,
    engine: EngineName,
    rules: EngineRules,
    constants: Constants,
    layout: Layout,
    fitted: Fit,
    ask: Ask,
) -> Option:
    architecture = variant.architecture
    one = layout.model_copy(update={"replicas": 1})
    model = steps_of(architecture, one, site, fitted, constants)
    even = _evenly(model)
    checkpoint = architecture.checkpoint_bytes / GIB
    narrow = fitted.settings.kv_cache_dtype != "auto" and not ask.kv_cache_dtype
    return Option(
        variant,
        site,
        engine,
        rules,
        constants,
        layout,
        fitted,
        model,
        even,
        quick_pace(model, fitted, ask, layout.replicas),
        quick_pace(even, fitted, ask, layout.replicas),
        ready_seconds(architecture, fitted, one, site, constants, checkpoint),
        variant.compromise + narrow,
    )


def _evenly(model: StepModel) -> StepModel:
    """The same with even routing; itself where there are no experts, or routing is even."""
    if not model.experts or model.constants.spread == 1.0:
        return model
    constants = model.constants.model_copy(update={"spread": 1.0})
    return dataclasses.replace(model, constants=constants)


def best_fit(
    architecture: Architecture,
    layout: Layout,
    site: Site,
    ask: Ask,
    rules: EngineRules,
    constants: Constants,
    kv_dtype: str,
) -> Fit | Miss:
    """As asked; else with less context, where none is asked for; else with tighter settings."""
    settings = settings_for(architecture, site, ask, rules, kv_dtype)
    tight = settings_for(architecture, site, _tightened(ask), rules, kv_dtype)
    least = ask.input_tokens + ask.output_tokens
    contexts = [c for c in CONTEXTS if least <= c < settings.context]
    contexts = [settings.context, *(() if ask.context else contexts)]
    result: Miss | None = None
    for each in (settings, tight):
        for context in contexts:
            tried = each.model_copy(update={"context": context})
            outcome = fit(architecture, layout, site, tried, rules, constants)
            if not isinstance(outcome, Miss):
                return outcome
            result = result or outcome
            if outcome.hopeless:
                break
    assert result is not None
    return result


def _tightened(ask: Ask) -> Ask:
    """Smaller batches and less headroom, as far as they are not pinned."""
    return ask.model_copy(
        update={
            "utilization": ask.utilization or 0.95,
            "max_batched_tokens": ask.max_batched_tokens or 2048,
            "max_seqs": ask.max_seqs or max(16, min(128, ask.concurrency)),
        }
    )


def _kv_dtypes(ask: Ask) -> tuple[str, ...]:
    return (ask.kv_cache_dtype,) if ask.kv_cache_dtype else ("auto", "fp8")


def _replicas(layout: Layout, site: Site, fitted: Fit, ask: Ask) -> int:
    """How many copies of ``layout`` the site holds, and the load keeps busy."""
    inside = site.per_node // layout.gpus
    if inside and fitted.host.free is not None and fitted.host.needs:
        inside = min(inside, int(fitted.host.free // fitted.host.needs))
    room = site.nodes * inside if inside else site.gpus // layout.gpus
    if ask.replicas:
        return ask.replicas if ask.replicas <= room else 0
    if ask.objective == "gpus":
        return min(1, room)
    return min(room, max(1, ask.concurrency // layout.data))
