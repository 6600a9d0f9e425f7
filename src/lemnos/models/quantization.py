"""How a checkpoint's weights are stored: config.json's quantization to a Store for each weight."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from lemnos.errors import UsageError, near
from lemnos.models.config import Config
from lemnos.spec.architecture import BF16, Store, Weight

STORES: dict[str, Store] = {
    store.name: store
    for store in (
        BF16,
        Store("fp8-tensor", 8, "fp8"),
        Store("fp8-channel", 8, "fp8", (1, 0), 4),
        Store("fp8-block", 8, "fp8", (128, 128), 4),
        Store("int8-channel", 8, "int8", (1, 0), 4),
        # int4: an FP16 scale a group; AWQ and GPTQ keep a 4-bit zero point a group too.
        Store("int4", 4, "w4a16", (1, 128), 2),
        Store("awq", 4, "w4a16", (1, 128), 2.5),
        Store("gptq", 4, "w4a16", (1, 128), 2.5),
        Store("nvfp4", 4, "fp4", (1, 16), 1),  # and one FP32 scale a matrix
        Store("mxfp4", 4, "w4a16", (1, 32), 1),  # weights only: widened to BF16 to be multiplied
    )
}
"""Formats by name; ``--quantization`` takes these. MXFP4 scales are E8M0 of 32 (OCP MX 1.0)."""

_ALWAYS_WHOLE = re.compile(r"(norm|bias|conv1d|sinks|A_log|dt_|layernorm|embed|gate$)")
"""Weights that no method quantizes: vectors, convolutions, look-ups, routers."""


@dataclass(frozen=True)
class Quantization:
    """What a config says: a format, and which modules stay as they are."""

    store: Store
    whole: Callable[[str], bool]
    """Whether the module of that full name is left in BF16."""
    on_load: bool = False
    """Quantized by the engine while loading; the checkpoint is BF16."""

    def of(self, name: str, weight: Weight) -> Store:
        """The store of ``weight``, whose full name in the checkpoint is ``name``."""
        if weight.columns == 1 or _ALWAYS_WHOLE.search(name) or self.whole(name):
            return weight.store
        return self.store


NONE = Quantization(BF16, lambda name: True)


def quantization_of(config: Config) -> Quantization:
    """Of a whole config.json. Raises LemnosError for methods that are not known."""
    found = config.part(
        "quantization_config" if "quantization_config" in config else ""
    )
    if not found.data and "compression_config" in config:
        found = config.part("compression_config")
    if not found.data:
        return NONE
    method = found.text("quant_method") or found.part("quantization").text("quant_algo")
    if method in ("compressed-tensors", "compressed_tensors"):
        return _compressed_tensors(found)
    if method == "modelopt" or "quant_algo" in found or "quantization" in found:
        return _modelopt(found)
    whole = _patterns(
        found.items("modules_to_not_convert") or found.items("ignored_layers")
    )
    if method == "fp8":
        block = "weight_block_size" in found
        store = STORES["fp8-block" if block else "fp8-tensor"]
        if block:
            size = [n for n in found.items("weight_block_size") if isinstance(n, int)]
            if len(size) != 2 or min(size) < 1:
                raise found.bad("weight_block_size", "is not two whole numbers")
            store = replace(store, block=(size[0], size[1]))
        return Quantization(store, whole)
    if method in ("awq", "gptq"):
        if found.number("bits", 4) not in (4, 8):
            raise found.bad("bits", "is neither 4 nor 8")
        group = _group(found, "group_size", 128)
        store = replace(
            STORES[method],
            bits=found.number("bits", 4),
            block=(1, group if group else 0),
        )
        return Quantization(store, _or_head(whole))
    if method == "mxfp4":
        # gpt-oss: the experts alone; its list names the others.
        return Quantization(
            STORES["mxfp4"], lambda name: "experts" not in name or whole(name)
        )
    raise found.bad(
        "quant_method",
        f"is '{method[:40]}', which the planner does not know "
        "(it knows compressed-tensors, fp8, awq, gptq, modelopt, mxfp4)",
    )


def on_load(name: str) -> Quantization:
    """``--quantization fp8`` over a BF16 checkpoint: each linear layer but the head."""
    known = {"fp8": "fp8-tensor", **{key: key for key in STORES if key != "bf16"}}
    if name not in known:
        raise UsageError(
            f"unknown quantization '{name}'",
            fix=near(name, list(known)) or f"there are {', '.join(known)}",
        )
    return Quantization(
        STORES[known[name]],
        lambda module: "lm_head" in module or "visual" in module,
        on_load=True,
    )


def _compressed_tensors(found: Config) -> Quantization:
    groups = found.part("config_groups")
    whole = _patterns(found.items("ignore"))
    if not groups.data:
        raise found.bad("config_groups", "is missing")
    weights = groups.part(next(iter(groups.data))).part("weights")
    bits, kind = weights.number("num_bits", 8), weights.text("type", "int")
    strategy = weights.text("strategy", "channel")
    if bits == 4 and kind == "float":
        return Quantization(STORES["nvfp4"], _or_head(whole))
    if bits == 4:
        group = _group(weights, "group_size", 128)
        scale = 2.0 if weights.flag("symmetric", True) else 2.5
        store = replace(STORES["int4"], block=(1, group), scale_bytes=scale)
        return Quantization(store, _or_head(whole))
    if bits == 8 and kind == "float":
        known = {"channel": "fp8-channel", "tensor": "fp8-tensor", "block": "fp8-block"}
        if strategy in known:
            return Quantization(STORES[known[strategy]], _or_head(whole))
    if bits == 8 and kind == "int":
        return Quantization(STORES["int8-channel"], _or_head(whole))
    raise weights.bad("strategy", f"({bits} bits {kind}, {strategy}) is not known")


def _modelopt(found: Config) -> Quantization:
    inner = found.part("quantization") if "quantization" in found else found
    algorithm = inner.text("quant_algo", found.text("quant_algo")).upper()
    whole = _patterns(inner.items("exclude_modules") or inner.items("ignore"))
    known = {
        "NVFP4": "nvfp4",
        "NVFP4_AWQ": "nvfp4",
        "FP8": "fp8-tensor",
        "FP8_PB_WO": "fp8-block",
        "FP8_PER_CHANNEL_PER_TOKEN": "fp8-channel",
        "W4A16_AWQ": "awq",
        "MXFP4": "mxfp4",
    }
    if algorithm == "MIXED_PRECISION":
        return Quantization(STORES["nvfp4"], _or_head(whole))
    if algorithm not in known:
        raise inner.bad("quant_algo", f"is '{algorithm[:40]}', which is not known")
    return Quantization(STORES[known[algorithm]], _or_head(whole))


def _group(config: Config, key: str, default: int) -> int:
    """A group size; -1 (the whole row) is 0 here."""
    return 0 if config.data.get(key) == -1 else config.number(key, default)


def _or_head(whole: Callable[[str], bool]) -> Callable[[str], bool]:
    """Output heads and vision encoders stay whole in every published checkpoint."""
    return lambda name: "lm_head" in name or "visual" in name or whole(name)


def _patterns(items: list[object]) -> Callable[[str], bool]:
    """Ignore lists: full names, their parents, ``*`` wildcards, and ``re:`` expressions."""
    exact, expressions = set(), []
    for item in items:
        if not isinstance(item, str) or len(item) > 1000:
            continue
        if item.startswith("re:"):
            try:
                expressions.append(re.compile(item[3:]))
            except re.error:
                continue  # one that engines could not use either
        elif "*" in item:
            expressions.append(re.compile(re.escape(item).replace(r"\*", ".*")))
        else:
            exact.add(item)

    def left_whole(name: str) -> bool:
        parts = name.split(".")
        if any(".".join(parts[:n]) in exact for n in range(1, len(parts) + 1)):
            return True
        return any(expression.match(name) for expression in expressions)

    return left_whole
