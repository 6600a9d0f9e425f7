"""Configs to architectures: exact counts, held against transformers' and published tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lemnos.errors import LemnosError
from lemnos.models.architecture import (
    architecture_of,
    read_config,
    summary,
    with_quantization,
)
from lemnos.models.config import Config
from lemnos.models.known import (
    known_architecture,
    known_figures,
    known_models,
    known_named,
    variants_of,
)
from lemnos.spec.architecture import Architecture
from tests.unit.models.configs import CONFIGS, config_of

PARAMETERS = json.loads(
    (Path(__file__).parents[2] / "data" / "parameters.json").read_text()
)["parameters"]


def known(name: str) -> Architecture:
    entry = known_named(name)
    assert entry is not None
    return known_architecture(entry)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_transformers(name: str) -> None:
    assert architecture_of(config_of(name)).parameters == PARAMETERS[name]


def test_every_config_has_a_count_and_a_model() -> None:
    assert set(CONFIGS) == set(PARAMETERS)
    assert {entry.config for entry in known_models()} == set(CONFIGS)


@pytest.mark.parametrize(
    ("name", "main", "mtp"),
    [
        ("glm-4.5-air", 106_852_251_264, 3_616_573_568),
        ("glm-4.5", 352_797_829_024, 5_539_962_272),
        ("glm-4.6", 352_797_829_024, 3_988_069_792),
        ("glm-4.7", 352_797_829_024, 3_988_069_792),
        # "671B main and 14B MTP": 13.46 B with its own embedding and head
        ("deepseek-v3", 671_026_419_200, 13_463_426_304),
        ("glm-5-fp8", 743_911_218_432, 9_952_920_576),
        ("glm-4.5-air-awq", 106_852_251_264, 0),
    ],
)
def test_mtp_layers_are_counted_apart(name: str, main: int, mtp: int) -> None:
    architecture = known(name)
    assert (architecture.parameters, architecture.mtp_parameters) == (main, mtp)


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("glm-4.5-air", 220.9),
        ("glm-4.5-air-fp8", 113.2),
        ("glm-4.5-air-awq", 57.4),
        ("glm-4.5", 716.7),
        ("glm-4.5-fp8", 362.0),
        ("glm-4.6", 713.6),
        ("glm-4.6-fp8", 358.9),
        ("glm-4.6-awq", 185.7),
        ("glm-4.7-awq", 185.7),
        ("glm-4.7-nvfp4", 218.8),
    ],
)
def test_bytes_on_disk(name: str, gigabytes: float) -> None:
    assert known(name).checkpoint_bytes / 1e9 == pytest.approx(gigabytes, rel=0.003)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("glm-4.5-air", 12.80),
        ("glm-4.5", 32.86),
        ("glm-4.7", 32.86),
        ("gpt-oss-120b", 5.13),
        ("qwen3-235b-a22b", 21.57),
        ("kimi-k2", 31.69),
        ("llama-3.1-8b", 7.50),
    ],
)
def test_active_parameters(name: str, billions: float) -> None:
    assert known(name).active_parameters / 1e9 == pytest.approx(billions, abs=0.005)


def test_glm_attention_is_that_of_its_config() -> None:
    architecture = known("glm-4.6")
    attention = architecture.layers[0].attention
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (96, 8, 128)
    assert (architecture.hidden, architecture.vocabulary) == (5120, 151552)
    assert (architecture.max_context, architecture.tied) == (202752, False)
    routed = [layer.moe is not None for layer in architecture.layers]
    assert routed == [False] * 3 + [True] * 89
    moe = architecture.layers[-1].moe
    assert moe and (moe.experts, moe.top_k, moe.inner) == (160, 8, 1536)
    assert len(set(map(id, architecture.layers))) == 2  # alike ones are one object
    assert summary(architecture)["layers"] == 92


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("deepseek-v3", {("mla", 0): 61}),
        ("gpt-oss-20b", {("sliding", 128): 12, ("full", 0): 12}),
        ("llama-4-scout", {("chunked", 8192): 36, ("full", 0): 12}),
        ("qwen3-next-80b-a3b", {("linear", 0): 36, ("full", 0): 12}),
        ("qwen3-8b", {("full", 0): 36}),
    ],
)
def test_what_layers_look_back_at(name: str, kinds: dict[tuple[str, int], int]) -> None:
    found: dict[tuple[str, int], int] = {}
    for layer in architecture_of(config_of(name)).layers:
        key = (layer.attention.kind, layer.attention.window)
        found[key] = found.get(key, 0) + 1
    assert found == kinds


def test_latent_attention_caches_one_vector() -> None:
    attention = known("deepseek-v3").layers[0].attention
    assert (attention.latent, attention.head_dim, attention.value_dim) == (
        576,
        192,
        128,
    )
    sparse = known("glm-5-fp8").layers[0].attention
    assert sparse.index_dim == 128 and sparse.top_tokens == 2048


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [
        ("glm-4.6v", (1024, 1024), 37 * 37),  # 28 pixels a token
        ("qwen3-vl-235b-a22b", (1024, 1024), 32 * 32),
        ("qwen3-vl-235b-a22b", (33, 1), 2),
        ("llama-4-scout", (336, 336), 144),
    ],
)
def test_tokens_of_an_image(name: str, size: tuple[int, int], tokens: int) -> None:
    encoder = architecture_of(config_of(name)).encoder
    assert encoder is not None
    assert encoder.tokens(*size) == tokens
    assert encoder.max_patches > 0


def test_an_unknown_encoder_is_said() -> None:
    inside = dict(config_of("kimi-k2").data)
    wrapper = {
        "model_type": "kimi_k25",
        "text_config": inside,
        "vision_config": {"a": 1},
    }
    architecture = architecture_of(Config(wrapper, "here"))
    assert architecture.parameters == PARAMETERS["kimi-k2"]
    assert architecture.notes == (
        "its vision encoder is not known: its memory is not counted",
    )


def test_qwens_mtp_layer_is_one_more_layer() -> None:
    data = dict(config_of("qwen3-next-80b-a3b").data)
    plain = architecture_of(Config(data, "here"))
    with_mtp = architecture_of(Config(data | {"mtp_num_hidden_layers": 1}, "here"))
    last = sum(weight.params for weight in plain.layers[-1].weights)
    assert with_mtp.mtp_parameters == last + 2 * 2048 * 2048 + 3 * 2048


def variant(name: str, **changes: object) -> Architecture:
    return architecture_of(Config({**config_of(name).data, **changes}, "here"))


def test_biases_are_counted() -> None:
    plain = variant("llama-3.1-8b")
    qwen2 = variant("llama-3.1-8b", model_type="qwen2")
    assert qwen2.parameters - plain.parameters == 32 * (4096 + 2 * 1024)
    biased = variant("llama-3.1-8b", attention_bias=True, mlp_bias=True)
    each = 2 * 4096 + 2 * 1024 + 2 * 14336 + 4096
    assert biased.parameters - plain.parameters == 32 * each
    latent = variant("deepseek-v3", attention_bias=True)
    each = 576 + 7168 + 1536
    assert latent.parameters - variant("deepseek-v3").parameters == 61 * each
    vision = dict(config_of("glm-4.6v").data["vision_config"])
    eyes = variant("glm-4.6v", vision_config=vision | {"attention_bias": True})
    each = 3 * vision["hidden_size"]
    assert eyes.parameters - PARAMETERS["glm-4.6v"] == vision["depth"] * each


def test_a_tied_head_is_the_embedding() -> None:
    plain, tied = variant("qwen3-8b"), variant("qwen3-8b", tie_word_embeddings=True)
    assert plain.parameters - tied.parameters == 151936 * 4096
    assert plain.active_parameters == tied.active_parameters


def test_mistrals_window_is_every_layers() -> None:
    layers = variant("llama-3.1-8b", model_type="mistral", sliding_window=4096).layers
    assert {(x.attention.kind, x.attention.window) for x in layers} == {
        ("sliding", 4096)
    }


def test_linear_projections_apart_or_fused_are_as_many() -> None:
    apart = variant("qwen3-next-80b-a3b", model_type="qwen3_5_moe_text")
    assert apart.parameters == PARAMETERS["qwen3-next-80b-a3b"]
    assert len(apart.layers[0].weights) == 2 + len(
        variant("qwen3-next-80b-a3b").layers[0].weights
    )


def test_layers_that_are_listed_as_dense() -> None:
    listed = variant("qwen3-30b-a3b", mlp_only_layers=[0, 2])
    assert [layer.moe is None for layer in listed.layers[:4]] == [True, False] * 2
    kinds = ["dense"] * 2 + ["sparse"] * 90
    by_type = variant("glm-4.6", mlp_layer_types=kinds, first_k_dense_replace=None)
    assert [layer.moe is None for layer in by_type.layers[:4]] == [True] * 2 + [
        False
    ] * 2


def test_the_figures_of_the_known() -> None:
    figures = {each.name: each for each in known_figures()}
    assert list(figures) == [entry.name for entry in known_models()]
    air = figures["glm-4.5-air-fp8"]
    assert (air.parameters, air.context) == (106_852_251_264, 131_072)
    assert (air.stored, air.licence) == ("fp8-channel", "MIT")
    assert air.size_gib == pytest.approx(113.2e9 / 2**30, rel=0.003)
    assert air.active_parameters == known("glm-4.5-air").active_parameters


def test_published_checkpoints_are_found_by_each_of_their_names() -> None:
    for name in (
        "glm-4.6",
        "GLM-4.6",
        "zai-org/GLM-4.6",
        "hf://zai-org/GLM-4.6",
    ):
        entry = known_named(name)
        assert entry and entry.name == "glm-4.6"
    assert known_named("GLM-4.6x") is None
    assert known_named("Qwen3-Next-80B-A3B-Instruct") is not None


def test_checkpoints_of_one_model_know_each_other() -> None:
    entry = known_named("glm-4.7-nvfp4")
    assert entry is not None
    names = {other.name for other in variants_of(entry)}
    assert names == {"glm-4.7", "glm-4.7-fp8", "glm-4.7-awq", "glm-4.7-nvfp4"}


def test_names_are_found_once() -> None:
    names = [name.lower() for e in known_models() for name in {e.name, *e.aliases}]
    assert len(names) == len(set(names))


def test_shared_indexes_are_left_out() -> None:
    data = dict(config_of("glm-5").data)
    count = data["num_hidden_layers"]
    kinds = ["full", "shared"] * count
    architecture = architecture_of(Config(data | {"indexer_types": kinds}, "here"))
    dims = [layer.attention.index_dim for layer in architecture.layers[:4]]
    assert dims == [128, 0, 128, 0]
    assert architecture.parameters < PARAMETERS["glm-5"]


def test_modelopts_own_file_counts_where_the_config_says_nothing(
    tmp_path: Path,
) -> None:
    config = config_of("qwen3-8b")
    (tmp_path / "config.json").write_text(json.dumps(config.data))
    beside = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    assert architecture_of(read_config(tmp_path)).stored == "nvfp4"
    said = Config({**config.data, "quantization_config": {"quant_method": "fp8"}}, "x")
    other = Config(beside, "y")
    assert architecture_of(with_quantization(said, other)).stored == "fp8-tensor"
    wrapped = Config({"text_config": said.data}, "x")
    assert with_quantization(wrapped, other) is wrapped


def test_on_load_quantization() -> None:
    config = config_of("glm-4.7-flash")
    stored = architecture_of(config, quantization="fp8")
    assert stored.stored == "fp8-tensor"
    assert "quantized to fp8-tensor by the engine while it loads" in stored.notes
    assert stored.checkpoint_bytes < 0.6 * architecture_of(config).checkpoint_bytes
    with pytest.raises(LemnosError, match="unknown quantization 'fp9'"):
        architecture_of(config, quantization="fp9")
    quantized = {**config.data, "quantization_config": {"quant_method": "awq"}}
    with pytest.raises(LemnosError, match="is stored as awq already"):
        architecture_of(Config(quantized, "x"), quantization="fp8")
