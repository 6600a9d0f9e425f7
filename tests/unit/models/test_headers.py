"""GGUF and safetensors headers: read, checked, and never trusted."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lemnos.errors import LemnosError
from lemnos.models import gguf, safetensors
from lemnos.models.facts import gguf_facts, model_facts
from lemnos.spec.facts import LocalModel
from tests import tiny_models

FUZZ = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=150,
    deadline=None,
)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_gguf_header_and_facts(tmp_path: Path) -> None:
    path = written(tmp_path / "tiny.gguf", tiny_models.gguf())
    header = gguf.check_whole(path)
    assert [t.name for t in header.tensors] == ["token_embd.weight", "output.weight"]
    facts = gguf_facts("tiny", path, header)
    assert facts.parameters == 384
    assert facts.weights_bytes == 384 * 4
    assert (facts.layers, facts.hidden, facts.heads, facts.kv_heads) == (2, 64, 4, 2)
    assert (facts.head_dim, facts.vocabulary, facts.max_context) == (16, 3, 256)
    assert (facts.quantization, facts.has_chat_template) == ("F32", True)


def test_facts_by_layer_take_the_largest(tmp_path: Path) -> None:
    data = tiny_models.gguf(
        tiny_models.METADATA | {"llama.attention.head_count_kv": [1, 4]}
    )
    path = written(tmp_path / "x.gguf", data)
    assert gguf_facts("x", path, gguf.read_gguf(path)).kv_heads == 4


def test_a_long_vocabulary_is_kept_as_its_length(tmp_path: Path) -> None:
    tokens = [str(n) for n in range(gguf.LONG_ARRAY + 1)]
    numbers = list(range(gguf.LONG_ARRAY + 1))
    data = tiny_models.gguf(
        tiny_models.METADATA
        | {"tokenizer.ggml.tokens": tokens, "x": numbers, "y": True}
    )
    path = written(tmp_path / "x.gguf", data)
    header = gguf.read_gguf(path)
    assert header.metadata["tokenizer.ggml.tokens"] == gguf.Length(len(tokens))
    assert header.metadata["x"] == gguf.Length(len(numbers))
    assert gguf_facts("x", path, header).vocabulary == len(tokens)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"general.architecture": 3}, "no general.architecture"),
        ({"llama.block_count": 0}, "no usable llama.block_count"),
        ({"tokenizer.ggml.tokens": []}, "no usable llama.vocab_size"),
        ({"general.alignment": 0}, "general.alignment of 0"),
    ],
)
def test_metadata_that_cannot_be_used(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    path = written(tmp_path / "x.gguf", tiny_models.gguf(tiny_models.METADATA | change))
    with pytest.raises(LemnosError, match=says):
        gguf_facts("x", path, gguf.read_gguf(path))


def test_a_truncated_gguf_is_found_at_every_length(tmp_path: Path) -> None:
    whole = tiny_models.gguf()
    end = gguf.check_whole(written(tmp_path / "w.gguf", whole)).data_start + 384 * 4
    path = tmp_path / "x.gguf"
    for length in range(0, end, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(LemnosError):
            gguf.check_whole(path)
    path.write_bytes(whole[:end])
    gguf.check_whole(path)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"PK\x03\x04 a zip", "is not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "GGUF version 9"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "cut off within its header"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "cut off within its header"),
    ],
)
def test_what_is_no_gguf(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(LemnosError, match=says):
        gguf.read_gguf(written(tmp_path / "x.gguf", data))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LemnosError, match="cannot be read"):
        gguf.read_gguf(tmp_path / "none.gguf")
    with pytest.raises(LemnosError, match="cannot be read"):
        safetensors.read_header(tmp_path / "none.safetensors")


@FUZZ
@given(position=st.integers(0, 700), value=st.binary(min_size=1, max_size=9))
def test_any_gguf_with_changed_bytes_is_read_or_refused(
    tmp_path: Path, position: int, value: bytes
) -> None:
    data = bytearray(tiny_models.gguf())
    data[position : position + len(value)] = value
    path = written(tmp_path / "x.gguf", bytes(data))
    with contextlib.suppress(LemnosError):
        gguf_facts("x", path, gguf.check_whole(path))


def model_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir(exist_ok=True)
    for name, data in tiny_models.safetensors_model().items():
        if "/" not in name:
            (directory / name).write_bytes(data)
    return directory


def test_safetensors_that_are_whole(tmp_path: Path) -> None:
    directory = model_dir(tmp_path)
    assert safetensors.check_whole(directory) == 3
    (directory / "model.safetensors.index.json").unlink()
    assert safetensors.check_whole(directory) == 3


def test_safetensors_that_are_not_whole(tmp_path: Path) -> None:
    directory = model_dir(tmp_path)
    shard = directory / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    index = directory / "model.safetensors.index.json"

    def refused(says: str) -> None:
        with pytest.raises(LemnosError, match=says):
            safetensors.check_whole(directory)

    for length in (0, 7, 8, 40, len(whole) - 1):
        shard.write_bytes(whole[:length])
        refused("cut off")
    shard.write_bytes(whole + b"x")
    refused("has 1 bytes after the data")
    shard.write_bytes(tiny_models.safetensors({"other": 2048}))
    refused("do not agree")
    shard.unlink()
    refused("lacks model-00002-of-00002.safetensors")
    index.write_text("{")
    refused("not a valid index")
    index.write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    refused("names no plain files")


def test_a_directory_without_weights(tmp_path: Path) -> None:
    with pytest.raises(LemnosError, match="has no safetensors files"):
        safetensors.check_whole(tmp_path)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"[1]", "not a JSON object"),
        (b"{{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": {"data_offsets": [4, 2]}}', "without a valid range"),
        (b'{"a": {"data_offsets": "xy"}}', "without a valid range"),
        (b'{"a": 3}', "without a valid range"),
        (b'{"a": {"data_offsets": [1, 2]}}', "a gap or an overlap"),
    ],
)
def test_safetensors_headers_that_lie(tmp_path: Path, header: bytes, says: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"12")
    with pytest.raises(LemnosError, match=says):
        safetensors.read_header(path)


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes_are_safetensors_or_refused(tmp_path: Path, data: bytes) -> None:
    path = written(tmp_path / "x.safetensors", data)
    with contextlib.suppress(LemnosError):
        safetensors.read_header(path)


def test_safetensors_models_say_what_serves_them(tmp_path: Path) -> None:
    model = LocalModel(
        name="x", source="hf://a/x", format="safetensors", path=str(tmp_path), bytes=1
    )
    with pytest.raises(LemnosError, match="give a GGUF|embedded engine does not serve"):
        model_facts(model)
