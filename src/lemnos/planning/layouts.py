"""Which layouts are possible: every divisibility and kernel rule by name, with its reason. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lemnos.spec.architecture import Architecture, Weight
from lemnos.spec.cluster import GpuKind
from lemnos.spec.layout import Layout
from lemnos.spec.proposal import Ask


@dataclass(frozen=True)
class Site:
    """Nodes that are alike, as layouts see them."""

    gpu: GpuKind
    nodes: int
    per_node: int
    free_gib: float
    """Of the GPU with the least free memory."""
    memory_gib: float
    gbit_s: float | None
    """Between nodes; None: not known."""
    latency_ms: float | None
    nvlink: bool
    """The nodes are one NVLink domain."""
    price_per_hour: float | None = None
    host_free_gib: float | None = None
    disk_gb_s: float | None = None

    @property
    def gpus(self) -> int:
        return self.nodes * self.per_node

    @property
    def domain(self) -> int:
        """GPUs that are joined by NVLink (or one node's PCIe)."""
        return self.gpus if self.nvlink else self.per_node


MULTI_NODE_GBIT_S = 100.0
MULTI_NODE_LATENCY_MS = 1.0
"""What one model over several nodes needs: tensor parallelism talks twice a layer."""


@dataclass(frozen=True)
class Rule:
    """A reason against a layout: ``check`` gives the sentence, or None."""

    name: str
    check: Callable[[Architecture, Layout, Site], str | None]


def candidates(architecture: Architecture, site: Site, ask: Ask) -> Iterator[Layout]:
    """Layouts of one replica worth looking at on ``site``, as far as they are not pinned."""
    is_moe = any(layer.moe for layer in architecture.layers)
    limit = site.gpus
    for tensor in _ways(ask.tensor, min(limit, 64)):
        for pipeline in _ways(ask.pipeline, min(limit // tensor, 16)):
            room = limit // (tensor * pipeline)
            most_data = min(room, 64) if is_moe else 1
            for data in _ways(ask.data, most_data):
                choices: tuple[bool, ...] = (False, True) if is_moe else (False,)
                if ask.expert is not None:
                    choices = (ask.expert,)
                elif tensor * data == 1:
                    choices = (False,)
                for expert in choices:
                    if data > 1 and ask.expert is None and not expert:
                        continue  # data-parallel MoE layers want whole experts
                    if data > 1 and pipeline > 1 and not (ask.data and ask.pipeline):
                        continue  # every rank of every stage waits for all: pinned only
                    for context in _context_ways(architecture, tensor, ask):
                        yield Layout(
                            tensor=tensor,
                            pipeline=pipeline,
                            data=data,
                            expert=expert,
                            context=context,
                        )


def unsuitable(architecture: Architecture, ask: Ask) -> tuple[str, str] | None:
    """(rule, sentence) where no layout of the model would do what is asked; None: some may."""
    tokens = ask.context or ask.input_tokens + ask.output_tokens
    if tokens > architecture.max_context:
        trained = architecture.max_context
        return (
            "context",
            f"was trained for {trained} tokens, and {tokens} are asked for",
        )
    if ask.speculative and not architecture.mtp:
        return "mtp", "has no MTP layers to speculate with: leave --speculative out"
    return None


def refusals(
    architecture: Architecture, layout: Layout, site: Site
) -> list[tuple[str, str]]:
    """(rule, sentence) of every rule that ``layout`` breaks."""
    found = []
    for rule in RULES:
        if sentence := rule.check(architecture, layout, site):
            found.append((rule.name, sentence))
    return found


def _ways(pinned: int | None, limit: int) -> list[int]:
    """The pinned number, or powers of two up to ``limit`` (and the limit's own thirds of a rack)."""
    if pinned:
        return [pinned]
    return [
        1 << n for n in range(max(limit, 1).bit_length()) if 1 << n <= max(limit, 1)
    ]


def _context_ways(architecture: Architecture, tensor: int, ask: Ask) -> list[int]:
    if ask.context_parallel:
        return [ask.context_parallel]
    kv_heads = min(layer.attention.kv_heads for layer in architecture.layers)
    most = tensor // kv_heads
    return [1, most] if most > 1 else [1]


def _enough_gpus(a: Architecture, layout: Layout, site: Site) -> str | None:
    if layout.gpus <= site.gpus:
        return None
    return f"needs {layout.gpus} GPUs, and there are {site.gpus}"


def _heads(a: Architecture, layout: Layout, site: Site) -> str | None:
    for layer in a.layers:
        if layer.attention.heads % layout.tensor:
            return (
                f"{layer.attention.heads} attention heads cannot be split "
                f"{layout.tensor} ways"
            )
    return None


def _kv_heads(a: Architecture, layout: Layout, site: Site) -> str | None:
    for layer in a.layers:
        heads, kind = layer.attention.kv_heads, layer.attention.kind
        if kind != "mla" and heads % layout.tensor and layout.tensor % heads:
            return f"{heads} KV heads are neither split nor copied evenly {layout.tensor} ways"
    return None


def _widths(a: Architecture, layout: Layout, site: Site) -> str | None:
    for layer in set(a.layers):
        if layer.inner % layout.tensor:
            return f"the feed-forward width {layer.inner} cannot be split {layout.tensor} ways"
    return None


def _expert_widths(a: Architecture, layout: Layout, site: Site) -> str | None:
    ranks = layout.tensor * layout.data
    for layer in set(a.layers):
        if layer.moe and not layout.expert and layer.moe.inner % ranks:
            return f"experts of width {layer.moe.inner} cannot be split {ranks} ways; --ep can"
    return None


def _blocks(a: Architecture, layout: Layout, site: Site) -> str | None:
    for layer in set(a.layers):
        for weight in layer.weights:
            if sentence := _block_of(weight, layout):
                return sentence
    return None


def _block_of(weight: Weight, layout: Layout) -> str | None:
    """Scales belong to blocks of 128 (FP8) or groups (int4): a slice must hold whole ones."""
    store, ranks = weight.store, layout.tensor
    if weight.split == "experts":
        if layout.expert:
            return None
        ranks *= layout.data
    elif weight.split != "inner":
        return None
    high, wide = store.block
    gates = weight.name.endswith(("gate_proj", "up_proj"))
    unit = high if gates else wide
    width = weight.rows if gates else weight.columns
    if (
        unit <= 1
        or ranks == 1
        or weight.columns == 1
        or width % ranks
        or (width // ranks) % unit == 0
    ):
        return None
    if store.math == "w4a16" and unit <= 32:
        return None  # MXFP4 kernels pad
    where = "an expert" if weight.split == "experts" else f"'{weight.name}'"
    return (
        f"{width} / {ranks} = {width // ranks} is not a multiple of {unit}: {store.name} weights "
        f"cannot be split {ranks} ways inside {where}"
    )


def _layers(a: Architecture, layout: Layout, site: Site) -> str | None:
    if layout.pipeline <= len(a.layers):
        return None
    return f"{len(a.layers)} layers cannot be {layout.pipeline} pipeline stages"


def _experts(a: Architecture, layout: Layout, site: Site) -> str | None:
    moe = next((layer.moe for layer in a.layers if layer.moe), None)
    if layout.expert and not moe:
        return "the model has no experts to spread (--ep)"
    if moe and layout.expert and moe.experts < layout.tensor * layout.data:
        return (
            f"{moe.experts} experts are fewer than {layout.tensor * layout.data} ranks"
        )
    if layout.data > 1 and not moe:
        return "data parallelism of a dense model is replicas: use them instead of --dp"
    return None


def _context_parallel(a: Architecture, layout: Layout, site: Site) -> str | None:
    if layout.context == 1:
        return None
    kv_heads = min(layer.attention.kv_heads for layer in a.layers)
    copies = layout.tensor // kv_heads
    if copies < 2:
        return f"DCP shares copied KV heads, and TP{layout.tensor} copies none of {kv_heads}"
    if copies % layout.context:
        return (
            f"DCP{layout.context} does not divide the {copies} copies of each KV head"
        )
    if any(
        layer.attention.kind in ("linear", "sliding", "chunked") for layer in a.layers
    ):
        return "DCP is for models whose layers all keep a full KV cache"
    return None


def _tensor_links(a: Architecture, layout: Layout, site: Site) -> str | None:
    if layout.tensor <= site.domain:
        return None
    if site.domain > 1 and layout.tensor % site.per_node:
        return f"TP{layout.tensor} does not fill nodes of {site.per_node} GPUs evenly"
    return _network("TP over nodes", site)


def _stage_links(a: Architecture, layout: Layout, site: Site) -> str | None:
    if layout.tensor * layout.data * layout.pipeline <= site.domain:
        return None
    if layout.data > 1 and layout.tensor * layout.data > site.domain:
        return _network("experts over nodes", site)
    return None


def _network(what: str, site: Site) -> str | None:
    if site.gbit_s is not None and site.gbit_s < MULTI_NODE_GBIT_S:
        return (
            f"{what} needs over {MULTI_NODE_GBIT_S:.0f} Gbit/s between nodes, "
            f"and {site.gbit_s:.3g} were measured"
        )
    if site.latency_ms is not None and site.latency_ms >= MULTI_NODE_LATENCY_MS:
        return f"{what} needs under 1 ms between nodes, and {site.latency_ms:.3g} were measured"
    return None


RULES = (
    Rule("enough-gpus", _enough_gpus),
    Rule("heads-divide", _heads),
    Rule("kv-heads-divide", _kv_heads),
    Rule("widths-divide", _widths),
    Rule("expert-widths-divide", _expert_widths),
    Rule("quantization-blocks", _blocks),
    Rule("layers-cover-stages", _layers),
    Rule("experts-exist", _experts),
    Rule("context-parallel-copies", _context_parallel),
    Rule("tensor-links", _tensor_links),
    Rule("expert-links", _stage_links),
)
"""In the order in which they are checked."""
