"""Sentences for people: why a plan is as it is, and what to be careful of. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lemnos.planning.budget import kv_gib
from lemnos.planning.memory import GIB, encoder_activation, encoder_bytes
from lemnos.planning.options import Option
from lemnos.planning.pace import DEFAULT_BETWEEN_GBIT_S, DEFAULT_DISK_GB_S
from lemnos.planning.speed import step_time
from lemnos.spec.architecture import Encoder
from lemnos.spec.proposal import Ask


@dataclass(frozen=True)
class Warnings:
    """What to be careful of; ``extrapolates`` also widens the intervals."""

    extrapolates: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.extrapolates, *self.others)


def warnings_of(option: Option) -> Warnings:
    """Where the figures stand on less than measurements."""
    architecture, site = option.variant.architecture, option.site
    layout, constants = option.layout, option.constants
    settings = option.fitted.settings
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
    if settings.cpu_offload_gib:
        beyond.append(
            "speed is extrapolated: no engine with weights in host memory was measured"
        )
    others = list(architecture.notes)
    if site.disk_gb_s is None:
        others.append(
            f"ready_s counts on a disk of {DEFAULT_DISK_GB_S:.0f} GB/s: none was measured"
        )
    if (settings.cpu_offload_gib or settings.kv_offload_gib) and (
        site.host_free_gib is None
    ):
        others.append(
            f"the host's memory is not known: {option.fitted.host.needs:.0f} GiB a node are needed"
        )
    if settings.speculative:
        others.append(
            "speed is without the gain of speculation: how many drafts are accepted depends on the texts"
        )
    if architecture.encoder:
        others.append(_of_images(architecture.encoder, layout.tensor))
    if site.gpu.host == "aarch64":
        others.append(
            f"{site.gpu.name} hosts are aarch64: images and wheels must be too"
        )
    return Warnings(tuple(beyond), tuple(others))


def _of_images(encoder: Encoder, tensor: int) -> str:
    side = encoder.pixels_per_token
    weights, peak = encoder_bytes(encoder, tensor), encoder_activation(encoder, tensor)
    return (
        f"an image costs a token for {side} x {side} pixels: 1024 x 1024 are "
        f"{encoder.tokens(1024, 1024)}; its encoder takes {weights / GIB:.2f} GiB of the weights, "
        f"and up to {peak / GIB:.2f} GiB while it works"
    )


def reasons_of(option: Option, ask: Ask) -> tuple[str, ...]:
    """Why this layout and these settings."""
    architecture, layout = option.variant.architecture, option.layout
    settings = option.fitted.settings
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
    if settings.kv_offload_gib:
        reasons.append(_of_kv_offload(option, ask))
    if settings.eager:
        reasons.append(
            "without CUDA graphs every kernel is launched by the CPU: decoding is several times slower"
        )
    return tuple(reasons)


def _of_kv_offload(option: Option, ask: Ask) -> str:
    """What a prompt seen before costs to bring back, beside computing it again."""
    layout, settings = option.layout, option.fitted.settings
    link = option.site.gpu.pcie_gb_s * 1e9 * option.constants.host_link
    size = kv_gib(
        option.variant.architecture, layout, settings.kv_cache_dtype, ask.input_tokens
    )
    back = size * GIB / (layout.tensor * layout.pipeline) / link
    chunk = min(ask.input_tokens, settings.max_batched_tokens)
    again = step_time(option.even, chunk, ask.input_tokens / 2, 0, 0)
    again *= ask.input_tokens / chunk
    return (
        f"{settings.kv_offload_gib:.0f} GiB of host memory an engine keep prefixes that left the "
        f"GPUs: {ask.input_tokens} tokens come back in about {back * 1e3:.1f} ms instead of "
        f"{again * 1e3:.0f} ms of computing (a copy over each GPU's link; not measured)"
    )
