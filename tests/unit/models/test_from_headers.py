"""Architectures from headers alone: every known checkpoint comes back as it went in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from lemnos.errors import LemnosError
from lemnos.models.architecture import architecture_of
from lemnos.models.checkpoint import from_headers
from lemnos.models.config import Config
from lemnos.models.from_headers import LONGEST, architecture_from_headers
from lemnos.models.headers import Tensor
from lemnos.models.known import known_models
from lemnos.spec.architecture import Architecture, Layer
from tests.unit.models.checkpoints import shortened, tensor, tensors_of

CHECKPOINTS = {
    (entry.config, repr(entry.quantization)): entry for entry in known_models()
}.values()


@pytest.mark.parametrize("entry", CHECKPOINTS, ids=lambda entry: entry.name)
def test_known_checkpoints_come_back_from_their_headers(entry: Any) -> None:
    config = shortened(entry.config, quantization_config=entry.quantization)
    asked = replace(architecture_of(config), encoder=None, mtp=())
    if asked.family == "llama4_text":  # other configs say it in layer_types
        kinds = {"full": "full_attention", "chunked": "chunked_attention"}
        listed = [kinds[layer.attention.kind] for layer in asked.layers]
        text = {**config.data["text_config"], "layer_types": listed}
        config = replace(config, data={**config.data, "text_config": text})
    found = architecture_from_headers(tensors_of(asked), "here", config)
    for figure in (
        *("parameters", "active_parameters", "checkpoint_bytes", "stored"),
        *("hidden", "vocabulary", "max_context", "tied"),
    ):
        assert getattr(found, figure) == getattr(asked, figure), figure
    assert [parts(layer) for layer in found.layers] == [
        parts(layer) for layer in asked.layers
    ]


def parts(layer: Layer) -> tuple[object, ...]:
    weights = sorted(layer.weights, key=lambda weight: weight.name)
    return layer.attention, layer.moe, layer.inner, weights


def test_alike_layers_are_one_object() -> None:
    architecture = made("glm-4.5-air")
    assert [architecture.layers.index(layer) for layer in architecture.layers] == [
        0,
        1,
        1,
        1,
    ]


def test_what_was_assumed_is_said() -> None:
    notes = " ".join(made("qwen3-8b").notes)
    assert "from its files' headers alone" in notes
    assert "attention is taken as full" in notes
    bare = architecture_from_headers(tensors("qwen3-8b"), "here")
    assert bare.max_context == LONGEST
    assert f"{LONGEST:,} is assumed" in " ".join(bare.notes)
    assert (bare.name, bare.family) == ("unknown", "unknown")
    assert "linear layers' states" in " ".join(made("qwen3-next-80b-a3b").notes)


def tensors(name: str) -> list[Tensor]:
    return tensors_of(architecture_of(shortened(name)))


def made(name: str, extra: Iterable[Tensor] = (), **keys: Any) -> Architecture:
    found = [*tensors(name), *extra]
    return architecture_from_headers(found, "here", shortened(name, **keys))


def test_mtp_layers_and_encoders_are_counted_apart() -> None:
    plain = made("glm-4.6")
    extra = [
        tensor("model.layers.4.eh_proj.weight", "BF16", 5120, 10240),
        tensor("model.layers.4.embed_tokens.weight", "BF16", 151552, 5120),
        tensor("mtp.norm.weight", "BF16", 5120),
        tensor("model.visual.blocks.0.attn.qkv.weight", "BF16", 300, 100),
        tensor("model.visual.patch_embed.proj.weight", "BF16", 100, 3, 2, 14, 14),
        tensor("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 64),
    ]
    found = made("glm-4.6", extra)
    assert found.mtp_parameters == 5120 * 10240 + 151552 * 5120 + 5120
    assert found.parameters == plain.parameters + 30_000 + 3 * 2 * 14 * 14 * 100
    assert "its encoder's 0.00 GB are counted" in " ".join(found.notes)
    keys = {"num_experts_per_tok": 8}
    bare = [*tensors("glm-4.6"), *extra]
    without = architecture_from_headers(bare, "here", Config(keys, "x"))
    assert without.mtp_parameters == found.mtp_parameters  # its eh_proj shows it


def test_quantization_on_load() -> None:
    found = tensors("qwen3-8b")
    config = shortened("qwen3-8b")
    smaller = architecture_from_headers(found, "here", config, quantization="fp8")
    assert smaller.stored == "fp8-tensor"
    assert smaller.checkpoint_bytes < made("qwen3-8b").checkpoint_bytes
    asked = architecture_of(config, quantization="fp8")
    assert smaller.checkpoint_bytes == asked.checkpoint_bytes
    awq = shortened("qwen3-8b", quantization_config={"quant_method": "awq"})
    with pytest.raises(LemnosError, match="is stored as awq already"):
        architecture_from_headers(
            tensors_of(architecture_of(awq)), "here", config, quantization="fp8"
        )


# Layers of no family that lemnos knows.


def small(*inside: Tensor, **keys: Any) -> Architecture:
    """Two layers of these tensors, hidden size 64, and an embedding."""
    layers = [
        replace(each, name=f"transformer.h.{n}.{each.name}")
        for n in range(2)
        for each in inside
    ]
    embedding = tensor("transformer.wte.weight", "BF16", 1000, 64)
    config = Config(keys, "config.json") if keys else None
    return architecture_from_headers([*layers, embedding], "here", config)


def attention(kv: int = 32) -> list[Tensor]:
    return [
        tensor("attn.q_proj.weight", "BF16", 64, 64),
        tensor("attn.k_proj.weight", "BF16", kv, 64),
        tensor("attn.v_proj.weight", "BF16", kv, 64),
        tensor("attn.o_proj.weight", "BF16", 64, 64),
    ]


FUSED = (
    tensor("attn.qkv_proj.weight", "BF16", 128, 64),
    tensor("attn.dense.weight", "BF16", 64, 64),
    tensor("mlp.fc1.weight", "BF16", 256, 64),
    tensor("mlp.fc2.weight", "BF16", 64, 256),
    tensor("mlp.c_proj.weight", "BF16", 64, 256),
)


def test_fused_projections() -> None:
    layer = small(*FUSED, num_attention_heads=4).layers[0]
    assert (layer.attention.heads, layer.attention.kv_heads) == (4, 2)
    assert (layer.attention.head_dim, layer.inner) == (16, 256)


def test_head_sizes_follow_from_what_there_is() -> None:
    by_size = small(*attention(), head_dim=8).layers[0].attention
    assert (by_size.heads, by_size.kv_heads, by_size.head_dim) == (8, 4, 8)
    by_heads = small(*attention(), n_head=4).layers[0].attention
    assert (by_heads.heads, by_heads.kv_heads, by_heads.head_dim) == (4, 2, 16)
    norm = tensor("attn.k_norm.weight", "BF16", 16)
    assert small(*attention(), norm).layers[0].attention == by_heads


def test_windows_are_those_of_the_config() -> None:
    kinds = ["sliding_attention", "full_attention"]
    found = small(*attention(), head_dim=8, layer_types=kinds, sliding_window=128)
    looks = [(each.attention.kind, each.attention.window) for each in found.layers]
    assert looks == [("sliding", 128), ("full", 0)]
    without = small(*attention(), head_dim=8, layer_types=kinds)
    assert {each.attention.kind for each in without.layers} == {"full"}


def test_layers_without_attention_keep_nothing() -> None:
    only = [replace(each, name=f"h.0.{each.name}") for each in attention()]
    more = tensor("h.1.mlp.up_proj.weight", "BF16", 64, 64)
    embedding = tensor("wte.weight", "BF16", 1000, 64)
    config = Config({"head_dim": 8}, "x")
    found = architecture_from_headers([*only, more, embedding], "here", config)
    assert found.layers[1].attention.kv_heads == 0
    assert "keep nothing of a token" in " ".join(found.notes)


def test_smaller_stacks_are_counted_and_no_layers() -> None:
    tower = tensor("tower.blocks.0.fc1.weight", "BF16", 8, 8)
    before = [replace(each, name=f"h.0.{each.name}") for each in attention()]
    embedding = tensor("wte.weight", "BF16", 1000, 64)
    config = Config({"head_dim": 8}, "x")
    plain = architecture_from_headers([*before, embedding], "here", config)
    more = architecture_from_headers([*before, embedding, tower], "here", config)
    assert len(more.layers) == 1 and more.parameters == plain.parameters + 64


def test_experts_without_names_for_their_width() -> None:
    experts = [
        tensor(f"moe.experts.{n}.{name}.weight", "BF16", *shape)
        for n in range(4)
        for name, shape in (("in", (32, 64)), ("out", (64, 32)))
    ]
    layer = small(*attention(), *experts, head_dim=8, moe_topk=2).layers[0]
    assert layer.moe is not None
    assert (layer.moe.experts, layer.moe.top_k, layer.moe.inner) == (4, 2, 32)


def test_mamba_keeps_a_state() -> None:
    mixer = (
        tensor("mixer.A_log", "F32", 8),
        tensor("mixer.conv1d.weight", "BF16", 64 + 2 * 16, 1, 4),
        tensor("mixer.out_proj.weight", "BF16", 64, 64),
    )
    found = small(*mixer, ssm_state_size=16, n_groups=1).layers[0].attention
    assert (found.kind, found.heads, found.value_dim) == ("linear", 8, 8)
    assert found.state == 8 * 8 * 16 + 96 * 3
    assert small(*mixer).layers[0].attention.state == 8 * 8 * 8 + 96 * 3


LATENT = [
    tensor("attn.kv_a_proj_with_mqa.weight", "BF16", 24, 64),
    tensor("attn.kv_a_layernorm.weight", "BF16", 16),
    tensor("attn.kv_b_proj.weight", "BF16", 4 * 16, 16),
    tensor("attn.q_proj.weight", "BF16", 4 * 16, 64),
    tensor("attn.o_proj.weight", "BF16", 64, 4 * 8),
]


@pytest.mark.parametrize(
    ("inside", "keys", "says"),
    [
        (attention(), {}, "'head_dim' is missing"),
        (attention(), {"head_dim": 7}, "do not divide into heads of 7"),
        (attention(), {"head_dim": 64}, "do not divide into heads of 64"),
        (attention(48), {"head_dim": 16}, "are not heads of 16 for 3 of keys"),
        (FUSED, {}, "'num_attention_heads' is missing"),
        (FUSED, {"num_attention_heads": 5}, "are not 5 heads of 12"),
        ([tensor("attn.strange.weight", "BF16", 64, 64)], {}, "names are not known"),
        ([tensor("mlp.up.weight", "BF16", 64, 64)], {}, "none of its layers has"),
        (LATENT[:-1], {}, "its latent attention lacks tensors"),
        (
            [*LATENT[:-1], tensor("attn.o_proj.weight", "BF16", 64, 31)],
            {},
            "its latent attention does not add up",
        ),
        ([tensor("mixer.A_log", "F32", 8)], {}, "lacks out_proj or conv1d"),
        (attention(), {"head_dim": 8, "n_layer": 3}, "has 2 layers .* says 3"),
        (attention(), {"head_dim": "8"}, "'head_dim' is no whole number"),
        (attention(), {"text_config": 3}, "'text_config' is no object"),
        (attention(), {"head_dim": 8, "layer_types": [3]}, "is no list of texts"),
        (
            [*attention(), tensor("moe.experts.w1", "BF16", 4, 64, 32)],
            {"head_dim": 8},
            "'num_experts_per_tok' is missing",
        ),
        (
            [*attention(), tensor("moe.experts.w1", "BF16", 4, 64, 32)],
            {"head_dim": 8, "moe_top_k": 5},
            "is 5, and there are 4 experts",
        ),
        (
            [
                *attention(),
                tensor("moe.experts.0.w1", "BF16", 64, 32),
                tensor("moe.experts.1.w1", "BF16", 64, 16),
            ],
            {"head_dim": 8},
            "the experts' moe.experts.w1 differ in shape",
        ),
        (
            [
                *attention(),
                tensor("moe.experts.0.w1", "BF16", 64, 32),
                tensor("moe.experts.1.w1", "BF16", 64, 32),
                tensor("moe.experts.1.w2", "BF16", 32, 64),
            ],
            {"head_dim": 8},
            "differ in number",
        ),
        (
            [
                *attention(),
                tensor("mlp.up_proj.weight", "U8", 512, 1),
                tensor("mlp.up_proj.weight.absmax", "U8", 16),
            ],
            {"head_dim": 8},
            "is quantized by bitsandbytes",
        ),
    ],
)
def test_what_shows_too_little_is_a_sentence(
    inside: list[Tensor], keys: dict[str, Any], says: str
) -> None:
    with pytest.raises(LemnosError, match=says) as caught:
        small(*inside, **keys)
    assert caught.value.where in ("here", "config.json")
    assert caught.value.fix


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ([tensor("a.weight", "BF16", 4, 4)], "no tensors in numbered layers"),
        ([tensor("h.0.a.weight", "BF16", 4, 4)], "has no embedding"),
        ([tensor("h.1.a.weight", "BF16", 4, 4)], "has no layer 0 among its 1 in 'h'"),
        (
            [tensor(f"h.{n}.a.weight", "BF16", 1) for n in range(2001)],
            "has 2001 layers, more than any model",
        ),
        (
            [
                tensor("h.0.a.weight", "BF16", 4, 4),
                tensor("wte.weight", "BF16", 8, 4),
                tensor("lm_head.weight", "BF16", 9, 4),
            ],
            "its head is 9 x 4, its embedding 8 x 4",
        ),
        ([], "no tensors in numbered layers"),
    ],
)
def test_what_is_no_language_model(found: list[Tensor], says: str) -> None:
    with pytest.raises(LemnosError, match=says):
        architecture_from_headers(found, "here")


def test_without_files_there_is_nothing_to_trust() -> None:
    with pytest.raises(LemnosError, match="has no safetensors files whose headers"):
        from_headers([], "here", None, None)
