"""Configs that cannot be right: each is refused in a sentence that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemnos.errors import LemnosError
from lemnos.models.architecture import architecture_of, parse_config, read_config
from lemnos.models.config import Config, shown
from lemnos.models.families import FAMILIES
from tests.unit.models.configs import config_of


def refused(says: str, name: str, **changes: object) -> None:
    data = {**config_of(name).data, **changes}
    with pytest.raises(LemnosError, match=says) as caught:
        architecture_of(Config(data, "somewhere/config.json"))
    assert caught.value.where == "somewhere/config.json"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("says", "name", "changes"),
    [
        ("'hidden_size' is missing", "qwen3-8b", {"hidden_size": None}),
        ("'num_hidden_layers' is missing", "glm-4.6", {"num_hidden_layers": None}),
        ("'hidden_size' is no whole number: '64'", "qwen3-8b", {"hidden_size": "64"}),
        ("'hidden_size' is no whole number: True", "qwen3-8b", {"hidden_size": True}),
        ("'hidden_size' is no whole number: 1.5", "qwen3-8b", {"hidden_size": 1.5}),
        ("'vocab_size' is -1", "qwen3-8b", {"vocab_size": -1}),
        ("'vocab_size' is 0", "qwen3-8b", {"vocab_size": 0}),
        ("more than any model has", "qwen3-8b", {"num_hidden_layers": 10**9}),
        ("more than any model has", "qwen3-8b", {"hidden_size": 10**30}),
        (
            "'num_key_value_heads' .7. does not divide 32",
            "qwen3-8b",
            {"num_key_value_heads": 7},
        ),
        (
            "'head_dim' is missing, and 4097 / 32 is not whole",
            "llama-3.1-8b",
            {"hidden_size": 4097},
        ),
        ("is more than the 160 experts", "glm-4.6", {"num_experts_per_tok": 161}),
        ("'attention_bias' is neither", "glm-4.6", {"attention_bias": "yes"}),
        ("'model_type' is no text", "glm-4.6", {"model_type": 3}),
        ("'text_config' is no object", "glm-4.6", {"text_config": [1]}),
        (
            "'num_nextn_predict_layers' is 99",
            "glm-4.6",
            {"num_nextn_predict_layers": 99},
        ),
        ("is more than the 92 layers", "glm-4.6", {"first_k_dense_replace": 93}),
        ("is 24, but 1 are listed", "gpt-oss-20b", {"layer_types": ["full_attention"]}),
        ("has the unknown kind 'x'", "gpt-oss-20b", {"layer_types": ["x"] * 24}),
        ("'layer_types' is no list", "gpt-oss-20b", {"layer_types": "x"}),
        ("'q_lora_rank' is missing", "glm-5", {"q_lora_rank": None}),
        (
            ".65. is more than the 32 experts",
            "gpt-oss-20b",
            {"num_experts_per_tok": 65},
        ),
        ("more than any model has", "qwen3-30b-a3b", {"num_experts": 10**6}),
        (".5. does not divide 32", "qwen3-next-80b-a3b", {"linear_num_key_heads": 5}),
        ("is no list of texts: .7", "gpt-oss-20b", {"layer_types": [7] * 24}),
        ("is no list of whole", "qwen3-30b-a3b", {"mlp_only_layers": ["0"]}),
    ],
)
def test_keys_that_cannot_be_right(
    says: str, name: str, changes: dict[str, object]
) -> None:
    refused(says, name, **changes)


def test_a_key_inside_is_named_with_its_way() -> None:
    data = {"model_type": "llama4", "text_config": {"model_type": "llama4_text"}}
    with pytest.raises(LemnosError, match="'text_config.hidden_size' is missing"):
        architecture_of(Config(data, "x"))


def test_an_unknown_family_is_named_with_its_nearest() -> None:
    with pytest.raises(LemnosError) as caught:
        architecture_of(Config({"model_type": "qwen3_5", "architectures": ["Q"]}, "x"))
    assert "'Q' (model_type 'qwen3_5') is not known" in caught.value.what
    assert "Did you mean 'qwen3'" in caught.value.fix
    assert "--trust-headers" in caught.value.fix
    with pytest.raises(LemnosError) as caught:
        architecture_of(Config({"model_type": "zzzzzzzzzz"}, "x"))
    assert all(name in caught.value.fix for name in FAMILIES)
    with pytest.raises(LemnosError, match="'model_type' is missing"):
        architecture_of(Config({}, "x"))


def test_foreign_text_cannot_act_on_a_terminal() -> None:
    odd = "\x1b[31m\ud800" + "x" * 200
    with pytest.raises(LemnosError) as caught:
        architecture_of(Config({"model_type": odd}, "x"))
    assert "\x1b" not in str(caught.value) and str(caught.value).encode()
    assert shown(["\x1b"] * 99).isprintable()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        ("9" * 5000, "not valid JSON"),
        ("[1]", "is no JSON object"),
    ],
)
def test_what_is_no_config(text: str | bytes, says: str) -> None:
    with pytest.raises(LemnosError, match=says):
        parse_config(text, "x")


def test_a_directory_without_a_config(tmp_path: Path) -> None:
    with pytest.raises(LemnosError, match="cannot be read"):
        read_config(tmp_path)
    with (tmp_path / "config.json").open("wb") as handle:
        handle.truncate(65 * 1024**2)
    with pytest.raises(LemnosError, match="which no config has"):
        read_config(tmp_path)
