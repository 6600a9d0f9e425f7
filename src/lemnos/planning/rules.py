"""What each engine does by default, by version: data (``rules.yaml``)."""

from __future__ import annotations

import functools
import re
from importlib import resources

import yaml

from lemnos.spec.base import Value


class EngineRules(Value):
    """An engine's defaults from a version on."""

    since: str
    version: str
    """The version that plans assume where none is asked for."""
    utilization: float
    graph_estimate: bool
    batched_tokens: int
    """``max_num_batched_tokens`` on GPUs of 70 GiB and more (but the A100)."""
    batched_tokens_small: int
    seqs: int
    seqs_small: int
    sampler_copies: float
    """FP32 copies of the logits of ``seqs`` requests in the profiling run."""
    dense_sampler_copies: float
    dense_graph_estimate: bool
    """Dense models run on another model runner (vLLM's V2), which samples in less memory and
    sets nothing aside for graphs."""
    held_hidden_states: float
    """Copies of a batch's hidden states that the compiled graph of a MoE with head norms keeps."""
    other_gib: float
    """Beyond torch at TP1: CUDA context, libraries (measured)."""
    host_gib: float
    """Host memory of a rank's processes, nothing offloaded: an estimate, not measured."""
    source: str


@functools.cache
def _rules() -> dict[str, tuple[EngineRules, ...]]:
    text = resources.files("lemnos.planning").joinpath("rules.yaml").read_text()
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    data = yaml.load(text, Loader=loader)
    return {
        engine: tuple(EngineRules.model_validate(entry) for entry in entries)
        for engine, entries in data.items()
    }


def engine_names() -> list[str]:
    """Engines that have rules."""
    return list(_rules())


def rules_for(engine: str, version: str | None) -> EngineRules:
    """The newest rules not above ``version``; the newest of all where none is given."""
    entries = _rules()[engine]
    if version is None:
        return entries[-1]
    wanted = _numbers(version)
    fitting = [entry for entry in entries if _numbers(entry.since) <= wanted]
    return (fitting or list(entries[:1]))[-1]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
