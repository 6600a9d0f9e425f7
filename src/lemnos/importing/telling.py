"""How a model's plan differs from what was written, and what was written that cannot be true. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lemnos.importing.config import OldModel, Written
from lemnos.importing.notes import Kind, Note, note
from lemnos.importing.wishes import Wish, tokens_of
from lemnos.models.describe import Described
from lemnos.spec.proposal import Proposal, Proposals

Said = tuple[Kind, str, str]
"""Kind, text, and the key of the model that it is about ("" for the model)."""
GB_OVER_GIB = 2**30 / 10**9


@dataclass(frozen=True)
class Outcome:
    """A model's plan, and how it was come by."""

    written: Written
    wish: Wish
    plan: Proposal
    first: Proposals
    """The planner's answer to what is written, word for word."""
    found: Proposals
    """The answer that the plan is from."""
    described: tuple[Described, ...]
    """The checkpoint that was asked for, and its others."""

    @property
    def model(self) -> OldModel:
        return self.written.config.models[self.wish.key]


def told_of(outcome: Outcome) -> list[Note]:
    """What to say about the model."""
    written, at = outcome.written, ("models", outcome.wish.key)
    said = [*_changes(outcome), *_claims(outcome)]
    notes = [
        note(written, kind, text, *at, *filter(None, [key])) for kind, text, key in said
    ]
    low, high = outcome.plan.ready_s_interval
    limit = written.config.distributed.rdzv_timeout
    if limit and limit < high:
        text = f"{limit:g} s are given, and starting is predicted to take {low:.0f} to {high:.0f} s"
        notes.append(note(written, "wrong", text, "distributed", "rdzv_timeout"))
    return notes


def reason_of(found: Proposals, name: str) -> str:
    """Why the checkpoint ``name`` does not fit, in the planner's words."""
    own = [each for each in found.rejected if f", {name}, " in f"{each.option}, "]
    own = own or [each for each in found.rejected if each.option == name]
    if not own:
        return "the planner found no layout"
    return own[0].reason.rpartition(" [")[0] or own[0].reason


def _changes(outcome: Outcome) -> Iterator[Said]:
    """What is planned otherwise than it is written."""
    wish, plan, name = outcome.wish, outcome.plan, outcome.described[0].name
    asked, total = wish.ask["context"], wish.gpus
    context, kv_dtype = plan.settings.context, plan.settings.kv_cache_dtype
    reason = reason_of(outcome.first, name)
    if total is None:
        text = f"gpus is not given: the fewest that hold it are {plan.gpus}"
        yield "told", text, ""
    if plan.model != name:
        text = f"does not fit as written ({reason}): {plan.source} ({plan.stored}) is planned instead"
        yield "changed", text, "huggingface_id"
    if context != asked:
        text = f"a context of {asked} does not fit ({reason}): {context} is planned"
        yield "changed", text, "max_model_len"
    if total and plan.gpus != total:
        text = f"no layout uses {total} GPUs: {plan.layout} takes {plan.gpus}"
        yield "changed", text, "gpus"
    if kv_dtype != "auto" and "kv_cache_dtype" not in wish.ask:
        text = f"the KV cache is kept as {kv_dtype}: the context does not fit otherwise"
        yield "changed", text, ""
    if wish.nodes > 1 and plan.layout.tensor != plan.gpus:
        yield "changed", _other_layout(outcome), "nodes"


def _other_layout(outcome: Outcome) -> str:
    """Why tensor parallelism stays inside a node."""
    plan = outcome.plan
    wide = [
        each
        for each in outcome.found.plans
        if each.model == plan.model and each.layout.tensor == plan.gpus
    ]
    text = f"the scripts' TP{plan.gpus} over {plan.nodes} nodes is planned as {plan.layout}"
    if not wide:
        return text
    return f"{text}: {_speed(plan)} instead of {_speed(wide[0])} tokens/s predicted"


def _speed(plan: Proposal) -> str:
    return f"{plan.output_tokens_per_s_even_routing or plan.output_tokens_per_s:,.0f}"


def _claims(outcome: Outcome) -> Iterator[Said]:
    """What the configuration says of the model, against what is known of it."""
    model, plan = outcome.model, outcome.plan
    own = next(d.architecture for d in outcome.described if d.name == plan.model)
    if claimed := tokens_of(model.context or ""):
        kind, text = _of_context(claimed, model, plan, own.max_context)
        yield kind, text, "context"
    if model.vision and own.encoder is None:
        yield "wrong", f"{plan.model} takes no images", "vision"
    vram = re.fullmatch(r"(\d+(?:\.\d+)?)\s*Gi?B?", model.vram or "", re.IGNORECASE)
    weights = plan.weights_gib_per_rank * plan.layout.gpus
    have = plan.memory.total * plan.gpus
    if vram and float(vram[1]) < weights:
        text = f"{model.vram} would not hold the weights, {weights:.0f} GiB on all GPUs together"
        yield "wrong", text, "vram"
    elif vram and float(vram[1]) > have * GB_OVER_GIB:
        text = (
            f"{model.vram} is more than {plan.gpus} x {plan.gpu} have ({have:.0f} GiB)"
        )
        yield "wrong", text, "vram"


def _of_context(
    claimed: int, model: OldModel, plan: Proposal, trained: int
) -> tuple[Kind, str]:
    """What becomes of the context that a model is said to have."""
    said, served, held = model.context, plan.settings.context, plan.kv_cache_tokens
    if claimed > trained * 1.01:  # 131K is said for 131072
        text = f"{said} is said, and {plan.model} was trained for {trained:,}"
        return "wrong", text
    if served >= min(claimed, trained):
        return "gone", f"all of it is served: max_model_len is {served:,}"
    text = f"{served:,} of {said} are served, as max_model_len says; "
    if held >= claimed:
        return "told", f"{text}the KV cache holds {held:,}: all of it would fit too"
    return "wrong", f"{text}{said} would not fit: the KV cache holds {held:,}"
