"""Sentences for people: why a plan is as it is, and what to be careful of. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lemnos.planning.calibration import Constants
from lemnos.planning.layouts import Site
from lemnos.planning.predict import DEFAULT_BETWEEN_GBIT_S, DEFAULT_DISK_GB_S
from lemnos.spec.architecture import Architecture
from lemnos.spec.layout import Layout
from lemnos.spec.proposal import Ask, Settings


@dataclass(frozen=True)
class Warnings:
    """What to be careful of; ``extrapolates`` also widens the intervals."""

    extrapolates: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.extrapolates, *self.others)


def warnings_of(
    architecture: Architecture, site: Site, layout: Layout, constants: Constants
) -> Warnings:
    """Where the figures stand on less than measurements."""
    beyond = []
    if site.gpu.name not in constants.gpus:
        beyond.append(
            f"speed is extrapolated: the constants were fitted on {', '.join(constants.gpus)}, "
            f"not on {site.gpu.name}"
        )
    if layout.gpus > site.domain:
        beyond.append("speed is extrapolated: no plan over several nodes was measured")
        if site.gbit_s is None:
            beyond.append(
                f"the network between nodes is not known: {DEFAULT_BETWEEN_GBIT_S:.0f} Gbit/s "
                "are counted on ('lemnos probe --hosts' measures it)"
            )
    others = list(architecture.notes)
    if site.disk_gb_s is None:
        others.append(
            f"ready_s counts on a disk of {DEFAULT_DISK_GB_S:.0f} GB/s: none was measured"
        )
    if architecture.encoder:
        side = architecture.encoder.pixels_per_token
        tokens = architecture.encoder.tokens(1024, 1024)
        others.append(
            f"an image costs a token for {side} x {side} pixels: 1024 x 1024 are {tokens}"
        )
    if site.gpu.host == "aarch64":
        others.append(
            f"{site.gpu.name} hosts are aarch64: images and wheels must be too"
        )
    return Warnings(tuple(beyond), tuple(others))


def reasons_of(
    architecture: Architecture, layout: Layout, settings: Settings, ask: Ask
) -> tuple[str, ...]:
    """Why this layout and these settings."""
    reasons = []
    kv_heads = min(layer.attention.kv_heads for layer in architecture.layers)
    latent = architecture.layers[0].attention.kind == "mla"
    if layout.tensor > kv_heads and not latent and layout.context == 1:
        reasons.append(
            f"TP{layout.tensor} copies each of the {kv_heads} KV heads: more TP saves no more KV cache"
        )
    if latent and layout.tensor > 1 and layout.context == 1:
        reasons.append(
            "latent attention keeps one vector for all heads: every TP rank holds the whole KV cache"
        )
    if layout.expert:
        reasons.append(
            f"experts are whole, {layout.tensor * layout.data} ranks share them (EP = TP x DP)"
        )
    if not ask.context and settings.context < architecture.max_context:
        reasons.append(
            f"context {settings.context} of the model's {architecture.max_context}: "
            "more does not fit"
        )
    if settings.kv_cache_dtype.startswith("fp8") and not ask.kv_cache_dtype:
        reasons.append("an FP8 KV cache holds twice the tokens, at a little accuracy")
    if settings.utilization >= 0.95 and not ask.utilization:
        reasons.append(
            "it fits only tightly: --gpu-memory-utilization "
            f"{settings.utilization} --max-num-batched-tokens {settings.max_batched_tokens} "
            f"--max-num-seqs {settings.max_seqs}"
        )
    if settings.eager:
        reasons.append(
            "without CUDA graphs every kernel is launched by the CPU: decoding is several times slower"
        )
    return tuple(reasons)
