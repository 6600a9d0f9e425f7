"""Configs held against the headers of their files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lemnos.models.agreement import (
    bytes_apart,
    carries_mtp_embeddings,
    disagreements,
    without_absent_mtp,
)
from lemnos.models.architecture import architecture_of
from lemnos.models.checkpoint import from_config
from lemnos.models.headers import Tensor
from lemnos.models.known import known_models
from lemnos.models.naming import is_encoder, is_mtp
from lemnos.spec.architecture import Architecture
from tests.unit.models.checkpoints import shortened, tensor, tensors_of

CHECKPOINTS = {
    (entry.config, repr(entry.quantization)): entry for entry in known_models()
}.values()


def plain(name: str, quantization: Any = None) -> Architecture:
    config = shortened(name, quantization_config=quantization)
    return replace(architecture_of(config), encoder=None, mtp=())


@pytest.mark.parametrize("entry", CHECKPOINTS, ids=lambda entry: entry.name)
def test_published_checkpoints_agree(entry: Any) -> None:
    architecture = plain(entry.config, entry.quantization)
    assert disagreements(architecture, tensors_of(architecture)) == []


def test_both_numbers_are_said() -> None:
    architecture = plain("qwen3-8b")
    found = tensors_of(architecture)
    notes = disagreements(architecture, found[:-20])
    assert len(notes) == 2
    missing = sum(each.elements for each in found[-20:])
    assert f"{architecture.parameters:,}" in notes[0]
    assert f"{architecture.parameters - missing:,}" in notes[0]
    assert "GB of weights, the architecture says" in notes[1]


def test_another_format_than_the_configs_is_said() -> None:
    bf16 = plain("qwen3-8b")
    fp8 = plain("qwen3-8b", {"quant_method": "fp8", "weight_block_size": [128, 128]})
    (note,) = disagreements(fp8, tensors_of(bf16))
    assert note.startswith("its files hold") and "figures follow" in note


def test_heads_of_tied_models_may_be_stored_again() -> None:
    tied = replace(plain("qwen3-8b"), tied=True)
    tied = replace(tied, outside=(tied.outside[0], tied.outside[2]))
    found = tensors_of(tied)
    assert disagreements(tied, found) == []
    head = tensor("lm_head.weight", "BF16", *found[0].shape)
    assert disagreements(tied, [*found, head]) == []
    assert bytes_apart(tied, round(tied.checkpoint_bytes + head.bytes)) == []
    assert bytes_apart(tied, round(tied.checkpoint_bytes + 2 * head.bytes))


MTP: list[Tensor] = [
    tensor("model.layers.4.eh_proj.weight", "BF16", 5120, 2 * 5120),
    tensor("model.layers.4.enorm.weight", "BF16", 5120),
    tensor("model.layers.4.hnorm.weight", "BF16", 5120),
    tensor("model.layers.4.shared_head.norm.weight", "BF16", 5120),
]


def test_mtp_layers_that_the_files_lack_are_left_out() -> None:
    config = shortened("glm-4.6")
    whole = architecture_of(config)
    found = tensors_of(whole)
    last = [each for each in found if ".layers.3." in each.name]
    inside = [replace(t, name=t.name.replace(".layers.3.", ".layers.4.")) for t in last]
    names = [each.name for each in found]
    assert from_config(config, None, names, found).mtp == ()
    assert from_config(config, "fp8", names).mtp == ()
    files = [*found, *MTP, *inside]
    made = from_config(config, None, [each.name for each in files], files)
    assert made.mtp_parameters == whole.mtp_parameters
    assert made.notes == ()
    half = from_config(config, None, [each.name for each in files], files[:-1])
    assert "its MTP layers hold" in half.notes[0]
    assert without_absent_mtp(whole, [MTP[0].name]) is whole


def test_mtp_layers_with_an_embedding_of_their_own() -> None:
    config = shortened("glm-4.5-air")
    names = ["model.layers.4.embed_tokens.weight", MTP[0].name]
    assert carries_mtp_embeddings(names, 4)
    assert not carries_mtp_embeddings(["model.embed_tokens.weight"], 4)
    larger = from_config(config, None, names)
    plain_one = architecture_of(config)
    assert larger.mtp_parameters - plain_one.mtp_parameters == 2 * 151552 * 4096


@pytest.mark.parametrize(
    ("name", "encoder", "mtp"),
    [
        ("model.visual.blocks.99.attn.qkv.weight", True, False),
        ("vision_tower.encoder.layers.60.mlp.fc1.weight", True, False),
        ("multi_modal_projector.linear_1.weight", True, False),
        ("model.layers.46.eh_proj.weight", False, True),
        ("model.language_model.layers.46.mlp.gate.weight", False, True),
        ("mtp.layers.0.mlp.gate.weight", False, True),
        ("model.layers.45.mlp.gate.weight", False, False),
        ("model.embed_tokens.weight", False, False),
    ],
)
def test_places_by_name(name: str, encoder: bool, mtp: bool) -> None:
    assert (is_encoder(name), is_mtp(name, 46)) == (encoder, mtp)
