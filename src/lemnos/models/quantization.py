"""How a checkpoint's weights are stored: config.json's quantization to a Store for each weight."""

from __future__ import annotations

import fnmatch
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from lemnos.errors import UsageError, near
from lemnos.models.config import Config, shown
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
        Store(
            "mxfp4", 4, "w4a16", (1, 32), 1
        ),  # weights only: widened to BF16 to be multiplied
    )
}
"""Formats by name; ``--quantization`` takes these. MXFP4 scales are E8M0 of 32 (OCP MX 1.0)."""

MXFP8 = Store("mxfp8", 8, "fp8", (1, 32), 1)

_ALWAYS_WHOLE = re.compile(r"(norm|bias|conv1d|sinks|A_log|dt_|layernorm|embed|gate$)")
"""Weights that no method quantizes: vectors, convolutions, look-ups, routers."""

Chosen = Callable[[str], bool]
"""Whether the module of that full name is meant."""


@dataclass(frozen=True)
class Quantization:
    """What a config says: a format, and which modules stay as they are."""

    store: Store
    whole: Chosen
    """Whether the module of that full name is left in BF16."""
    on_load: bool = False
    """Quantized by the engine while loading; the checkpoint is BF16."""
    each: Callable[[str], Store | None] | None = None
    """Where modules differ: the store of that full name; None: left in BF16."""

    def of(self, name: str, weight: Weight) -> Store:
        """The store of ``weight``, whose full name in the checkpoint is ``name``."""
        if weight.columns == 1 or _ALWAYS_WHOLE.search(name) or self.whole(name):
            return weight.store
        if self.each:
            return self.each(name) or weight.store
        return self.store


NONE = Quantization(BF16, lambda name: True)


def quantization_of(config: Config) -> Quantization:
    """Of a whole config.json. Raises LemnosError for methods that are not known."""
    found = config.part(
        "quantization_config"
        if "quantization_config" in config
        else "compression_config"
    )
    if not found.data:
        return NONE
    method = found.text("quant_method")
    if method in ("compressed-tensors", "compressed_tensors"):
        return _compressed_tensors(found)
    if method == "modelopt" or "quant_algo" in found or "quantization" in found:
        return _modelopt(found)
    skipped = found.items("modules_to_not_convert") or found.items("ignored_layers")
    if method == "fp8":
        return Quantization(_fp8(found), _or_head(_patterns(skipped)))
    if method == "fbgemm_fp8":
        return Quantization(STORES["fp8-channel"], _or_head(_patterns(skipped)))
    if method == "awq":
        # Engines look for these anywhere in a name: "model.layers.0." is the first layer.
        whole = _or_head(_patterns(skipped, anywhere=True))
        return Quantization(_grouped(found, "awq"), whole)
    if method == "gptq":
        # GPTQModel's "dynamic": expressions with settings of their own, "-:" is left whole.
        kept = [k[2:] for k in found.part("dynamic").data if k.startswith("-:")]
        whole = _patterns([*skipped, *(f"re:{expression}" for expression in kept)])
        return Quantization(_grouped(found, "gptq"), _or_head(whole))
    if method == "mxfp4":
        # gpt-oss: the experts alone; its list names the others.
        listed = _patterns(skipped)
        return Quantization(
            STORES["mxfp4"], lambda name: "experts" not in name or listed(name)
        )
    raise found.bad(
        "quant_method",
        f"is '{shown(method, 40)}', which the planner does not know "
        "(it knows compressed-tensors, fp8, fbgemm_fp8, awq, gptq, modelopt, mxfp4)",
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


def _fp8(found: Config) -> Store:
    if "weight_block_size" not in found:
        return STORES["fp8-tensor"]
    size = [n for n in found.items("weight_block_size") if type(n) is int and n > 0]
    if len(size) != 2 or len(found.items("weight_block_size")) != 2:
        raise found.bad("weight_block_size", "is not two whole numbers")
    return replace(STORES["fp8-block"], block=(size[0], size[1]))


def _grouped(found: Config, name: str) -> Store:
    """AWQ's and GPTQ's: an FP16 scale and a zero point of ``bits`` for each group."""
    bits = found.number("bits" if "bits" in found else "w_bit", 4)
    if bits not in (4, 8):
        raise found.bad("bits", "is neither 4 nor 8")
    size = "group_size" if "group_size" in found else "q_group_size"
    group = _group(found, size, 128)
    return replace(STORES[name], bits=bits, block=(1, group), scale_bytes=2 + bits / 8)


def _compressed_tensors(found: Config) -> Quantization:
    groups = found.part("config_groups")
    whole = _or_head(_patterns(found.items("ignore")))
    if not groups.data:
        raise found.bad("config_groups", "is missing")
    made = []
    for key in groups.data:
        group = groups.part(key)
        targets = [t for t in group.items("targets") if isinstance(t, str)]
        # A class ("Linear") means every module of it; the rest are modules' names.
        broad = not targets or any(t.isidentifier() and t[0].isupper() for t in targets)
        chosen = None if broad else _patterns(list(targets))
        made.append((chosen, _compressed(group.part("weights"))))
    if len(made) == 1 and made[0][0] is None:
        return Quantization(made[0][1], whole)

    def each(name: str) -> Store | None:
        return next((s for chosen, s in made if chosen is None or chosen(name)), None)

    return Quantization(min((s for _, s in made), key=_bits), whole, each=each)


def _compressed(weights: Config) -> Store:
    """One group's weights."""
    bits, kind = weights.number("num_bits", 8), weights.text("type", "int")
    strategy = weights.text("strategy", "channel")
    if bits == 4 and kind == "float":
        return STORES["mxfp4" if weights.optional("group_size") == 32 else "nvfp4"]
    if bits == 4:
        group = _group(weights, "group_size", 128)
        scale = 2.0 if weights.flag("symmetric", True) else 2.5
        return replace(STORES["int4"], block=(1, group), scale_bytes=scale)
    if bits == 8 and kind == "float":
        known = {"channel": "fp8-channel", "tensor": "fp8-tensor", "block": "fp8-block"}
        if strategy in known:
            return STORES[known[strategy]]
    if bits == 8 and kind == "int":
        return STORES["int8-channel"]
    raise weights.bad(
        "strategy", f"({bits} bits {shown(kind)}, {shown(strategy)}) is not known"
    )


def _modelopt(found: Config) -> Quantization:
    """ModelOpt's, in config.json or in a hf_quant_config.json of its own."""
    inner = found.part("quantization") if "quantization" in found else found
    whole = _or_head(_patterns(inner.items("exclude_modules") or inner.items("ignore")))
    name = inner.text("quant_algo", found.text("quant_algo"))
    if name.upper() != "MIXED_PRECISION":
        return Quantization(_algorithm(inner, name), whole)
    layers = inner.part("quantized_layers")
    if not layers.data:
        raise inner.bad("quantized_layers", "is missing, and quant_algo is mixed")
    algorithms: dict[str, Store] = {}
    stores: dict[str, Store] = {}
    for module in layers.data:
        part = layers.part(module)
        name = part.text("quant_algo")
        if name not in algorithms:
            algorithms[name] = _algorithm(part, name)
        stores[_module(module)] = algorithms[name]

    def each(name: str) -> Store | None:
        parts = name.split(".")
        parents = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
        return next((stores[p] for p in parents if p in stores), None)

    return Quantization(min(algorithms.values(), key=_bits), whole, each=each)


def _algorithm(config: Config, name: str) -> Store:
    known = {
        "NVFP4": STORES["nvfp4"],
        "NVFP4_AWQ": STORES["nvfp4"],
        "W4A16_NVFP4": replace(STORES["nvfp4"], math="w4a16"),
        "FP8": STORES["fp8-tensor"],
        "FP8_PB_WO": STORES["fp8-block"],
        "FP8_PER_CHANNEL_PER_TOKEN": STORES["fp8-channel"],
        "W4A16_AWQ": STORES["awq"],
        "MXFP4": STORES["mxfp4"],
        "MXFP8": MXFP8,
    }
    if name.upper() not in known:
        raise config.bad("quant_algo", f"is '{shown(name, 40)}', which is not known")
    return known[name.upper()]


def _bits(store: Store) -> float:
    return store.bits


def _group(config: Config, key: str, default: int) -> int:
    """A group size; -1 (the whole row) is 0 here."""
    return 0 if config.data.get(key) == -1 else config.number(key, default)


def _or_head(whole: Chosen) -> Chosen:
    """Output heads and vision encoders stay whole in every published checkpoint."""
    return lambda name: "lm_head" in name or "visual" in name or whole(name)


def _module(name: str) -> str:
    """A listed name as families write it: wrappers' prefixes away, experts as one."""
    return re.sub(r"\.experts\.\d+\.", ".experts.", name.replace("language_model.", ""))


def _patterns(items: list[object], *, anywhere: bool = False) -> Chosen:
    """Ignore lists: names or consecutive parts of them, ``*`` wildcards, ``re:`` expressions.

    ``anywhere``: names as plain text anywhere in a module's name.
    """
    exact: set[str] = set()
    beginnings: list[str] = []
    globs: list[str] = []
    expressions: list[re.Pattern[str]] = []
    for item in items:
        if not isinstance(item, str) or not 0 < len(item) <= 1000:
            continue
        if item.startswith("re:"):
            expressions += _compiled(item[3:])
            continue
        name = _module(item)
        if "*" not in name:
            exact.add(name)
        elif name.index("*") == len(name) - 1:
            beginnings.append(name[:-1])
        else:
            globs.append(fnmatch.translate(re.sub(r"\*+", "*", name)))
    wild = _compiled("|".join(globs)) if globs else []
    starts = tuple(beginnings)

    def chosen(name: str) -> bool:
        if anywhere and any(text in name for text in exact):
            return True
        parts = name.split(".")
        ends = range(1, len(parts) + 1)
        if any(".".join(parts[a:b]) in exact for b in ends for a in range(b)):
            return True
        if name.startswith(starts):
            return True
        if any(w.match(".".join(parts[:end])) for w in wild for end in ends):
            return True
        one = name.replace(".experts.", ".experts.0.")  # as the checkpoint has them
        return any(e.match(name) or e.match(one) for e in expressions)

    return chosen


def _compiled(expression: str) -> list[re.Pattern[str]]:
    """The expression; nothing where engines could not use it either."""
    plain = expression.replace(r"language_model\.", "").replace("language_model.", "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [re.compile(plain)]
    except (re.error, OverflowError, RecursionError):
        return []
