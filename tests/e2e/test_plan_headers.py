"""``lemnos plan`` of models that are a hub's or a directory's, as people run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lemnos.models.architecture import architecture_of
from lemnos.models.config import Config
from lemnos.models.safetensors import INDEX
from tests.command import lemnos
from tests.hub import Hub, serving
from tests.unit.models.checkpoints import file_of, tensors_of
from tests.unit.models.configs import config_of

DATA = {
    **config_of("qwen3-8b").data,
    **{"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8},
    **{"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64},
    "vocab_size": 8192,
}
TENSORS = tensors_of(architecture_of(Config(DATA, "x")))
WEIGHTS = file_of(TENSORS)
GIB = architecture_of(Config(DATA, "x")).checkpoint_bytes / 2**30
UNKNOWN = DATA | {"model_type": "qwen9", "architectures": ["Qwen9ForCausalLM"]}


def test_a_hubs_model_without_its_weights() -> None:
    files = {"config.json": json.dumps(DATA).encode(), "model.safetensors": WEIGHTS}
    with serving(Hub({"org/small": files})) as hub:
        words = ("plan", "org/small", "--cluster", "1xH200", "--tp", "1", "--json")
        by_config = lemnos(*words, HF_ENDPOINT=hub.url).stdout
        by_headers = lemnos(*words, "--trust-headers", HF_ENDPOINT=hub.url).stdout
    first, second = (json.loads(each)["plans"][0] for each in (by_config, by_headers))
    assert first["weights_gib_per_rank"] == pytest.approx(GIB, abs=0.02)
    assert first["weights_gib_per_rank"] == second["weights_gib_per_rank"]
    assert first["kv_cache_tokens"] == second["kv_cache_tokens"]
    assert "headers alone" in " ".join(second["warnings"])
    assert len(WEIGHTS) > 50e6
    assert hub.sent < 100_000


def test_a_hubs_unknown_model(tmp_path: Path) -> None:
    files = {"config.json": json.dumps(UNKNOWN).encode(), "model.safetensors": WEIGHTS}
    with serving(Hub({"org/new": files})) as hub:
        words = ("plan", "hf://org/new", "--cluster", "4xH200")
        said = lemnos(*words, code=1, HF_ENDPOINT=hub.url).stderr
        assert "'Qwen9ForCausalLM' (model_type 'qwen9') is not known" in said
        assert "Did you mean 'qwen3'" in said
        lemnos(*words, "--trust-headers", HF_ENDPOINT=hub.url)


def test_a_directory_with_real_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(UNKNOWN))
    shard = tmp_path / "model.safetensors"
    shard.write_bytes(WEIGHTS)
    words = ("plan", str(tmp_path), "--cluster", "1xH200")
    said = lemnos(*words, "--trust-headers", "--json").stdout
    chosen = json.loads(said)["plans"][0]
    assert chosen["weights_gib_per_rank"] == pytest.approx(GIB, abs=0.02)
    shard.write_bytes(WEIGHTS[:5000])
    said = lemnos(*words, "--trust-headers", code=1).stderr
    assert "model.safetensors: is cut off" in said and "-> download it again" in said
    index = {"weight_map": dict.fromkeys([t.name for t in TENSORS], "gone.safetensors")}
    (tmp_path / INDEX).write_text(json.dumps(index))
    said = lemnos(*words, "--trust-headers", code=1).stderr
    assert "lacks gone.safetensors, which its index names" in said


def test_files_that_contradict_their_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(DATA | {"vocab_size": 9000}))
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    said = lemnos("plan", str(tmp_path), "--cluster", "1xH200").stdout
    assert "parameters in the files, the architecture says" in said.replace("\n", " ")
