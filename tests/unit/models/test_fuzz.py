"""Damaged configs and headers: read, or refused in a sentence; nothing else escapes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lemnos.errors import LemnosError
from lemnos.models.agreement import disagreements
from lemnos.models.architecture import architecture_of, parse_config, summary
from lemnos.models.checkpoint import tensors_in
from lemnos.models.config import Config
from lemnos.models.describe import describe
from lemnos.models.from_headers import architecture_from_headers
from lemnos.models.known import known_models
from lemnos.models.quantization import quantization_of
from lemnos.models.safetensors import check_index, parse_header, parse_index
from tests.unit.models.checkpoints import header_of, shortened, tensor, tensors_of
from tests.unit.models.configs import CONFIGS, config_of

FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2, 3, 7, 16, 10**6, 10**9, 10**40, -(10**40)]),
    st.sampled_from([0.0, 1.5, 2.0, float("nan"), float("inf"), -1e308]),
    st.sampled_from(["", "8", "full", "\x1b[2J", "\ud800", "x" * 300, "layers\n"]),
    st.sampled_from([[], [1], [[[]]], ["a"] * 200, [None], {}, {"a": {}}, [True] * 99]),
    st.text(max_size=8),
)
"""Values that no config should have, and small ones that some keys may have."""


def sentence(error: LemnosError) -> None:
    """What a person reads: one line of ordinary length that can be printed, and a fix."""
    assert error.what and len(error.what) < 400
    assert error.fix and len(error.fix) < 600
    assert str(error.what).isprintable() and error.fix.isprintable()
    assert "object at 0x" not in error.what
    str(error).encode()


def architecture_or_sentence(config: Config) -> None:
    try:
        made = architecture_of(config)
    except LemnosError as error:
        sentence(error)
        return
    assert made.layers and made.parameters > 0
    assert 0 < summary(made)["active_parameters"]
    assert made.checkpoint_bytes >= 0


def changed(data: Any, draw: st.DrawFn) -> Any:
    """``data`` with one of its keys dropped or given another value, at any depth."""
    if not isinstance(data, dict) or not data:
        return draw(ODD)
    key = draw(st.sampled_from(sorted(data)))
    made = dict(data)
    if isinstance(made[key], dict) and draw(st.integers(0, 3)):
        made[key] = changed(made[key], draw)
    elif draw(st.booleans()):
        del made[key]
    else:
        made[key] = draw(ODD)
    return made


@st.composite
def damaged(draw: st.DrawFn) -> Config:
    """A shipped config, or that of a quantized checkpoint, with up to three changes."""
    entry = draw(st.sampled_from(known_models()))
    data: Any = dict(config_of(entry.config).data)
    if entry.quantization:
        data["quantization_config"] = entry.quantization
    for _ in range(draw(st.integers(1, 3))):
        data = changed(data, draw)
        if not isinstance(data, dict):
            data = {}
    return Config(data, "config.json")


@FUZZ
@given(damaged())
def test_damaged_configs(config: Config) -> None:
    architecture_or_sentence(config)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("value", [None, 0, -1, "x", [], {}, 10**40, float("nan"), 3])
def test_every_key_of_every_config(name: str, value: object) -> None:
    """Each key in turn is missing, zero, of another type, or odd."""
    data = config_of(name).data
    text: dict[str, Any] = data.get("text_config") or {}
    for key in data:
        architecture_or_sentence(Config({**data, key: value}, "config.json"))
    for key in text:
        inside = {**data, "text_config": {**text, key: value}}
        architecture_or_sentence(Config(inside, "config.json"))


QUANTIZATION = st.fixed_dictionaries(
    {},
    optional={
        "quant_method": st.sampled_from(
            ["fp8", "awq", "gptq", "mxfp4", "modelopt", "compressed-tensors", "x"]
        )
        | ODD,
        "quant_algo": st.sampled_from(["NVFP4", "FP8", "MIXED_PRECISION"]) | ODD,
        "weight_block_size": st.lists(st.integers(-1, 300), max_size=3) | ODD,
        "bits": ODD,
        "group_size": ODD,
        "ignore": st.lists(ODD, max_size=3) | ODD,
        "modules_to_not_convert": st.lists(ODD | st.just("re:(a"), max_size=3) | ODD,
        "dynamic": ODD,
        "quantization": ODD,
        "quantized_layers": st.dictionaries(st.text(max_size=5), ODD, max_size=2),
        "config_groups": st.dictionaries(
            st.text(max_size=3),
            st.fixed_dictionaries({"weights": ODD, "targets": ODD}) | ODD,
            max_size=2,
        )
        | ODD,
    },
)


@FUZZ
@given(QUANTIZATION | ODD)
def test_odd_quantizations(found: Any) -> None:
    try:
        made = quantization_of(Config({"quantization_config": found}, "config.json"))
    except LemnosError as error:
        sentence(error)
        return
    assert made.store.bits > 0
    architecture_or_sentence(shortened("glm-4.5-air", quantization_config=found))


@FUZZ
@given(st.binary(max_size=200) | st.text(max_size=200))
@example("[" * 5000)
@example('{"layer_types": ' + "[" * 900 + "]" * 900 + ', "model_type": "gpt_oss"}')
@example('{"architectures": ' + "[" * 900 + "]" * 900 + "}")
@example('{"hidden_size": ' + "9" * 5000 + "}")
@example('{"model_type": "llama", "hidden_size": ' + "9" * 4000 + "}")
def test_any_text_as_a_config(text: bytes | str) -> None:
    try:
        config = parse_config(text, "config.json")
    except LemnosError as error:
        sentence(error)
        return
    architecture_or_sentence(config)


CHECKPOINTS = {
    name: tensors_of(
        architecture_of(shortened(name, layers=2, first_k_dense_replace=1))
    )
    for name in ("qwen3-8b", "glm-4.5-air", "deepseek-v3", "gpt-oss-20b")
}


def header_or_sentence(text: bytes, size: int, config: Config | None) -> None:
    """Parsed, and worked out to an architecture; refused in a sentence anywhere on the way."""
    try:
        header = parse_header(text, size, "x.safetensors")
        tensors = tensors_in({"x.safetensors": header}, "here", "download it again")
        if config is not None:
            disagreements(architecture_of(config), tensors)
        made = architecture_from_headers(tensors, "here", config)
    except LemnosError as error:
        sentence(error)
        return
    assert made.layers and made.parameters > 0 and made.active_parameters > 0


ODD_NAMES = st.sampled_from(
    [
        *("model.layers.0.mlp.experts.9.up_proj.weight", "model.layers.99.x"),
        *("lm_head.weight", "mtp.x", "visual.x", "a.\ud800", "h.0.qweight", "x_scales"),
        "model.layers.0.self_attn.q_proj.weight_scale",
        *("model.layers.0.mlp.experts.down_proj_blocks", ".0.", "", "\x1b[2J"),
    ]
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 16, 64, 1000, 10**12]), max_size=4)


@FUZZ
@given(st.data(), st.sampled_from(sorted(CHECKPOINTS)), st.booleans())
def test_damaged_headers(data: st.DataObject, name: str, with_config: bool) -> None:
    """Tensors are dropped, renamed, reshaped, stored otherwise; offsets follow, or lie."""
    tensors = list(CHECKPOINTS[name])
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(tensors) - 1))
        old = tensors.pop(where)
        act = data.draw(st.sampled_from(["drop", "rename", "reshape", "dtype"]))
        if act == "drop":
            continue
        new = data.draw(ODD_NAMES) if act == "rename" else old.name
        shape = tuple(data.draw(SHAPES)) if act == "reshape" else old.shape
        kinds = st.sampled_from(["U8", "I32", "F8_E4M3", "F32", "F4", "I8", "BOOL"])
        dtype = data.draw(kinds) if act == "dtype" else old.dtype
        tensors.append(tensor(new, dtype, *shape))
    header = header_of(tensors)
    size = max((e["data_offsets"][1] for e in header.values()), default=0)
    if data.draw(st.booleans()):
        victim = header[data.draw(st.sampled_from(sorted(header)))]
        victim[data.draw(st.sampled_from(sorted(victim)))] = data.draw(ODD)
    text = json.dumps(header).encode()
    config = shortened(name, layers=2, first_k_dense_replace=1) if with_config else None
    header_or_sentence(text, 8 + len(text) + size, config)


@FUZZ
@given(st.binary(max_size=200), st.integers(0, 2**40))
@example(b"[" * 5000, 5008)
@example(b'{"a": ' * 900 + b"1" + b"}" * 900, 7000)
@example(b'{"a": {"data_offsets": [' + b"9" * 4000 + b", 0]}}", 9000)
@example(b'{"a": {"data_offsets": [0, ' + b"9" * 4000 + b"]}}", 9000)
def test_any_bytes_as_a_header(text: bytes, size: int) -> None:
    header_or_sentence(text, size, None)


@FUZZ
@given(
    st.recursive(
        ODD, lambda inner: st.dictionaries(st.text(max_size=6), inner, max_size=3)
    )
)
@example({"weight_map": {"a": "\ud800"}})
@example({"weight_map": {"a": "x" * 300}})
@example({"weight_map": {"\ud800\x1b": "x"}})
def test_any_json_as_an_index(index: Any) -> None:
    try:
        wanted = parse_index(json.dumps(index).encode(), "the index")
        check_index(wanted, {"x": {"b": {}}}, "the index")
    except LemnosError as error:
        sentence(error)


@FUZZ
@given(st.binary(max_size=400), st.integers(0, 2**64 - 1) | st.integers(0, 600))
def test_any_file_in_a_directory(tmp_path: Path, data: bytes, count: int) -> None:
    """A directory's shard whose header has any length, whatever follows."""
    (tmp_path / "config.json").write_text(json.dumps(config_of("qwen3-8b").data))
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", count) + data)
    with pytest.raises(LemnosError) as caught:
        describe(str(tmp_path), trust_headers=True)
    sentence(caught.value)
