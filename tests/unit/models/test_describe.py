"""What a model's name, path or source is taken for; nothing here reaches a network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.models.architecture import architecture_of
from lemnos.models.describe import describe
from lemnos.models.safetensors import INDEX
from tests.unit.models.checkpoints import file_of, shortened, tensors_of

CONFIG = shortened(
    "qwen3-8b",
    **{"hidden_size": 64, "intermediate_size": 128, "vocab_size": 256},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
)
TENSORS = tensors_of(architecture_of(CONFIG))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "My-Model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(CONFIG.data))
    (directory / "model.safetensors").write_bytes(file_of(TENSORS))
    return directory


def test_a_directory(model: Path) -> None:
    (found,) = describe(str(model))
    assert (found.name, found.source) == ("my-model", f"file://{model}")
    assert found.architecture.parameters == sum(each.elements for each in TENSORS)
    assert found.architecture.notes == ()
    for text in (f"file://{model}", str(model / "config.json")):
        assert describe(text)[0].source == found.source
    trusted = describe(str(model), trust_headers=True)[0].architecture
    assert trusted.parameters == found.architecture.parameters


def test_a_directory_whose_config_says_otherwise(model: Path) -> None:
    data = {**CONFIG.data, "intermediate_size": 256}
    (model / "config.json").write_text(json.dumps(data))
    notes = describe(str(model))[0].architecture.notes
    assert "its main layers hold" in notes[0] and "GB of weights" in notes[1]


def test_the_same_weights_again_are_not_counted(model: Path) -> None:
    (model / "consolidated.safetensors").write_bytes(file_of(TENSORS))
    assert describe(str(model))[0].architecture.notes == ()


def test_an_index_alone_says_whether_there_are_mtp_layers(model: Path) -> None:
    (model / "model.safetensors").unlink()
    data = {**CONFIG.data, "num_nextn_predict_layers": 1}
    (model / "config.json").write_text(json.dumps(data))
    assert describe(str(model))[0].architecture.mtp
    names = [each.name for each in TENSORS]
    (model / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "x")}))
    assert describe(str(model))[0].architecture.mtp == ()


def test_headers_without_a_config(model: Path) -> None:
    (model / "config.json").unlink()
    with pytest.raises(LemnosError, match="has no config.json") as caught:
        describe(str(model))
    assert "--trust-headers" in caught.value.fix
    named = describe(str(model), trust_headers=True)[0].architecture
    assert named.layers[0].attention.kv_heads == 2  # its heads' norms show it
    (model / "model.safetensors").unlink()
    with pytest.raises(LemnosError, match="cannot be read"):
        describe(str(model))


def test_a_known_name_brings_its_smaller_forms() -> None:
    names = [each.name for each in describe("glm-4.7")]
    assert names == ["glm-4.7", "glm-4.7-fp8", "glm-4.7-nvfp4", "glm-4.7-awq"]
    assert [each.name for each in describe("glm-4.7-awq")] == ["glm-4.7-awq"]
    (one,) = describe("zai-org/GLM-4.7", quantization="fp8")
    assert one.architecture.stored == "fp8-tensor"


@pytest.mark.parametrize(
    ("text", "says", "fix"),
    [
        ("glm-4.66", "unknown model 'glm-4.66'", "Did you mean 'glm-4.6'"),
        ("zzzzzzzzzzzz", "unknown model", "lemnos models ls --known"),
        ("smollm2", "'smollm2' is a GGUF model", "lemnos up smollm2"),
        ("./none.gguf", "is a GGUF file", "lemnos up"),
        ("./none", "is no directory with a config.json", "check the path"),
        ("~nobody-here/x", "is no directory with a config.json", "check the path"),
        ("/" + "x" * 5000, "is no directory with a config.json", "check the path"),
        ("pypi://a==1/x", "is no model of a hub that plans are made for", "hf://org"),
    ],
)
def test_what_is_no_model(text: str, says: str, fix: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        describe(text)
    assert fix in caught.value.fix
