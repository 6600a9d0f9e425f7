"""How configs say that weights are stored."""

from __future__ import annotations

from typing import Any

import pytest

from lemnos.errors import LemnosError
from lemnos.models.config import Config
from lemnos.models.quantization import Quantization, on_load, quantization_of
from lemnos.spec.architecture import Store, Weight


def parsed(**keys: Any) -> Quantization:
    return quantization_of(Config({"quantization_config": keys}, "config.json"))


def store_of(quantization: Quantization, name: str) -> Store:
    return quantization.of(name, Weight(name.rpartition(".")[2], 256, 512))


def compressed(weights: dict[str, Any], **keys: Any) -> Quantization:
    groups = {"group_0": {"weights": weights, "targets": ["Linear"]}}
    return parsed(quant_method="compressed-tensors", config_groups=groups, **keys)


MLP = "model.layers.3.mlp.up_proj"
EXPERTS = "model.layers.3.mlp.experts.up_proj"
ATTENTION = "model.layers.3.self_attn.q_proj"


@pytest.mark.parametrize(
    ("found", "name", "bits", "block", "scale"),
    [
        (
            compressed({"num_bits": 8, "type": "float", "strategy": "channel"}),
            "fp8-channel", 8, (1, 0), 4,
        ),
        (
            compressed({"num_bits": 8, "type": "float", "strategy": "block"}),
            "fp8-block", 8, (128, 128), 4,
        ),
        (
            compressed({"num_bits": 8, "type": "float", "strategy": "tensor"}),
            "fp8-tensor", 8, (0, 0), 0,
        ),
        (compressed({"num_bits": 8, "type": "int"}), "int8-channel", 8, (1, 0), 4),
        (compressed({"num_bits": 4, "group_size": 32}), "int4", 4, (1, 32), 2),
        (
            compressed({"num_bits": 4, "group_size": -1, "symmetric": False}),
            "int4", 4, (1, 0), 2.5,
        ),
        (compressed({"num_bits": 4, "type": "float", "group_size": 16}), "nvfp4", 4, (1, 16), 1),
        (compressed({"num_bits": 4, "type": "float", "group_size": 32}), "mxfp4", 4, (1, 32), 1),
        (parsed(quant_method="fp8"), "fp8-tensor", 8, (0, 0), 0),
        (
            parsed(quant_method="fp8", weight_block_size=[64, 128]),
            "fp8-block", 8, (64, 128), 4,
        ),
        (parsed(quant_method="fbgemm_fp8"), "fp8-channel", 8, (1, 0), 4),
        (parsed(quant_method="awq", bits=4, group_size=64), "awq", 4, (1, 64), 2.5),
        (parsed(quant_method="awq", w_bit=4, q_group_size=64), "awq", 4, (1, 64), 2.5),
        (parsed(quant_method="gptq", bits=8, group_size=-1), "gptq", 8, (1, 0), 3),
        (parsed(quant_method="modelopt", quant_algo="NVFP4"), "nvfp4", 4, (1, 16), 1),
        (parsed(quant_algo="FP8"), "fp8-tensor", 8, (0, 0), 0),
        (parsed(quantization={"quant_algo": "FP8_PB_WO"}), "fp8-block", 8, (128, 128), 4),
        (parsed(quantization={"quant_algo": "W4A16_AWQ"}), "awq", 4, (1, 128), 2.5),
        (on_load("fp8"), "fp8-tensor", 8, (0, 0), 0),
        (on_load("int4"), "int4", 4, (1, 128), 2),
    ],
)  # fmt: skip
def test_formats(
    found: Quantization, name: str, bits: float, block: tuple[int, int], scale: float
) -> None:
    store = store_of(found, MLP)
    assert (store.name, store.bits, store.block) == (name, bits, block)
    assert store.scale_bytes == scale
    assert found.store == store
    assert store_of(found, "lm_head").name == "bf16"
    assert store_of(found, "model.layers.3.input_layernorm").name == "bf16"
    assert store_of(found, "model.visual.blocks.0.attn.qkv").name == "bf16"


def test_no_quantization_is_bf16() -> None:
    assert quantization_of(Config({}, "x")).store.name == "bf16"
    assert (
        quantization_of(Config({"quantization_config": {}}, "x")).store.name == "bf16"
    )
    old = {"compression_config": {"quant_method": "fp8"}}
    assert quantization_of(Config(old, "x")).store.name == "fp8-tensor"


def test_mxfp4_is_for_experts() -> None:
    found = parsed(quant_method="mxfp4", modules_to_not_convert=["model.layers.9"])
    assert store_of(found, EXPERTS).name == "mxfp4"
    assert store_of(found, ATTENTION).name == "bf16"
    assert store_of(found, "model.layers.9.mlp.experts.down_proj").name == "bf16"


@pytest.mark.parametrize(
    ("ignored", "name", "whole"),
    [
        ("model.layers.3.mlp.up_proj", MLP, True),
        ("model.layers.3.mlp", MLP, True),  # a parent
        ("mlp.up_proj", MLP, True),  # its end
        ("model.layers.3", MLP, True),
        ("model.layers.3", "model.layers.30.mlp.up_proj", False),
        ("up", MLP, False),
        ("model.layers.3*", MLP, True),
        ("*self_attn*", ATTENTION, True),
        ("*self_attn*", MLP, False),
        ("*mlp.gate", "model.layers.3.mlp.gate_proj", False),
        ("model.layers.*.mlp", MLP, True),
        ("model.layers.*.self_attn", MLP, False),
        ("re:.*self_attn", ATTENTION, True),
        ("re:.*mlp.up_proj$", MLP, True),
        ("re:.*up$", MLP, False),
        ("re:.*experts[.][0-9]+[.].*", EXPERTS, True),
        ("re:(((", MLP, False),  # what no engine could use either
        ("re:a{99999999999999}", MLP, False),
        ("re:[[a]", MLP, False),
        ("model.language_model.layers.3.mlp*", MLP, True),  # a wrapper's names
        ("language_model.model.layers.3.mlp", MLP, True),
        (r"re:^model\.language_model\.layers\.3", MLP, True),
        ("model.layers.3.mlp.experts.0.up_proj", EXPERTS, True),
        ("", MLP, False),
        (7, MLP, False),
        ("x" * 2000, MLP, False),
    ],
)
def test_ignore_lists(ignored: object, name: str, whole: bool) -> None:
    by_fp8 = parsed(quant_method="fp8", modules_to_not_convert=["other", ignored])
    by_group = compressed({"num_bits": 4}, ignore=[ignored])
    by_modelopt = parsed(quant_algo="NVFP4", exclude_modules=[ignored])
    for found in (by_fp8, by_group, by_modelopt):
        assert (store_of(found, name).name == "bf16") is whole


def test_awq_looks_for_its_names_anywhere() -> None:
    found = parsed(
        quant_method="awq", modules_to_not_convert=["layers.3.", "self_attn"]
    )
    assert store_of(found, MLP).name == "bf16"
    assert store_of(found, "model.layers.4.self_attn.q_proj").name == "bf16"
    assert store_of(found, "model.layers.33.mlp.up_proj").name == "awq"


def test_gptqs_dynamic_leaves_modules_whole() -> None:
    found = parsed(quant_method="gptq", dynamic={"-:.*attn.*": {}, "+:.*mlp.*": {}})
    assert store_of(found, ATTENTION).name == "bf16"
    assert store_of(found, MLP).name == "gptq"


def test_groups_with_formats_of_their_own() -> None:
    found = parsed(
        quant_method="compressed-tensors",
        config_groups={
            "a": {"weights": {"num_bits": 4}, "targets": ["re:.*experts.*"]},
            "b": {
                "weights": {"num_bits": 8, "type": "float"},
                "targets": ["model.layers.3.self_attn.q_proj"],
            },
        },
    )
    assert store_of(found, EXPERTS).name == "int4"
    assert store_of(found, ATTENTION).name == "fp8-channel"
    assert store_of(found, MLP).name == "bf16"
    assert found.store.name == "int4"


def test_modelopts_mixed_precision() -> None:
    found = parsed(
        quant_algo="MIXED_PRECISION",
        quantized_layers={
            "model.language_model.layers.3.mlp.experts": {"quant_algo": "W4A16_NVFP4"},
            "model.layers.3.self_attn.q_proj": {"quant_algo": "FP8"},
            "model.layers.3.mlp.up_proj": {"quant_algo": "MXFP8"},
            "model.layers.4.mlp.experts.0.up_proj": {"quant_algo": "NVFP4"},
        },
    )
    assert store_of(found, EXPERTS).math == "w4a16"
    assert store_of(found, ATTENTION).name == "fp8-tensor"
    assert store_of(found, MLP).name == "mxfp8"
    assert store_of(found, "model.layers.4.mlp.experts.up_proj").math == "fp4"
    assert store_of(found, "model.layers.5.self_attn.q_proj").name == "bf16"
    assert found.store.name == "nvfp4"


@pytest.mark.parametrize(
    ("says", "keys"),
    [
        ("'quantization_config.quant_method' is 'quark'", {"quant_method": "quark"}),
        (
            "weight_block_size' is not two",
            {"quant_method": "fp8", "weight_block_size": [1]},
        ),
        (
            "weight_block_size' is not two",
            {"quant_method": "fp8", "weight_block_size": [1, 0]},
        ),
        ("bits' is neither 4 nor 8", {"quant_method": "awq", "bits": 3}),
        ("config_groups' is missing", {"quant_method": "compressed-tensors"}),
        ("quant_algo' is 'NEW'", {"quant_algo": "NEW"}),
        ("quantized_layers' is missing", {"quant_algo": "MIXED_PRECISION"}),
        ("'quantization_config' is no object", None),
    ],
)
def test_what_cannot_be_read(says: str, keys: dict[str, Any] | None) -> None:
    config = Config({"quantization_config": keys if keys is not None else 3}, "x")
    with pytest.raises(LemnosError, match=says):
        quantization_of(config)


@pytest.mark.parametrize(
    "weights",
    [{"num_bits": 8, "type": "float", "strategy": "odd"}, {"num_bits": 3}],
)
def test_unknown_compression(weights: dict[str, Any]) -> None:
    with pytest.raises(LemnosError, match="is not known"):
        compressed(weights)


def test_an_unknown_name_on_load() -> None:
    with pytest.raises(LemnosError, match="unknown quantization 'fp5'"):
        on_load("fp5")
