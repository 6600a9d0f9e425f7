"""Tensors of headers as the matrices that they store, in every format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lemnos.errors import LemnosError
from lemnos.models.headers import Matrix, Tensor, matrices, tensors_of
from lemnos.models.quantization import STORES
from lemnos.spec.architecture import BF16, FP32, Store
from tests.unit.models.checkpoints import header_of, stored, tensor


def one(*tensors: Tensor) -> Matrix:
    (found,) = matrices(tensors).values()
    return found


@pytest.mark.parametrize(
    "store",
    [
        BF16,
        FP32,
        *(STORES[name] for name in STORES if name not in ("bf16", "mxfp4")),
        replace(STORES["int4"], block=(1, 32)),
        replace(STORES["awq"], bits=8, scale_bytes=3),
        replace(STORES["gptq"], bits=8, scale_bytes=3),
        replace(STORES["gptq"], block=(1, 64)),
    ],
    ids=lambda store: f"{store.name}-{store.bits}-{store.block[1]}",
)
def test_formats_are_known_by_their_tensors(store: Store) -> None:
    tensors = stored("model.layers.0.mlp.up_proj", 640, 1536, store)
    found = one(*tensors)
    assert (found.name, found.shape) == ("model.layers.0.mlp.up_proj", (640, 1536))
    assert found.store == store
    assert found.bytes == sum(each.bytes for each in tensors)
    aside = 640 + 4 * 1536  # one scale a matrix, GPTQ's order of inputs
    assert found.store.bytes(640, 1536) == pytest.approx(found.bytes, abs=aside)


@pytest.mark.parametrize(
    ("rows", "block"), [(576, 128), (192, 128), (1536, 128), (64, 128), (960, 96)]
)
def test_blocks_that_do_not_fill_the_last(rows: int, block: int) -> None:
    store = replace(STORES["fp8-block"], block=(block, 128))
    assert one(*stored("x", rows, 7168, store)).store == store


@pytest.mark.parametrize(
    ("tensors", "name", "shape"),
    [
        (
            [tensor("x.weight", "F8_E4M3", 64, 64), tensor("x.weight_scale", "U8", 64, 2)],
            "mxfp8", (64, 64),
        ),
        (
            [tensor("x.weight", "F4", 64, 64), tensor("x.weight_scale", "F8_E8M0", 64, 2)],
            "mxfp4", (64, 64),
        ),
        (
            [tensor("x.weight", "F4", 64, 64), tensor("x.weight_scale", "F8_E4M3", 64, 4)],
            "nvfp4", (64, 64),
        ),
        (
            [tensor("x.weight", "U8", 64, 32), tensor("x.weight_scale", "U8", 64, 2)],
            "mxfp4", (64, 64),
        ),
        (
            [tensor("e_blocks", "U8", 3, 64, 2, 16), tensor("e_scales", "U8", 3, 64, 2)],
            "mxfp4", (3, 64, 64),
        ),
        ([tensor("x.weight", "F8_E5M2", 64, 64)], "fp8-tensor", (64, 64)),
        ([tensor("x.weight", "I64", 64)], "i64", (64,)),
        (
            [tensor("x.qweight", "I32", 8, 64), tensor("x.scales", "F16", 1, 64)],
            "gptq", (64, 64),
        ),
    ],
)  # fmt: skip
def test_formats_by_dtype(
    tensors: list[Tensor], name: str, shape: tuple[int, ...]
) -> None:
    found = one(*tensors)
    assert (found.store.name, found.shape) == (name, shape)


def test_scales_of_the_cache_are_no_parameters() -> None:
    assert not matrices([tensor("a.self_attn.k_scale", "F32")])
    found = matrices([tensor("router.scale", "F32", 64)])  # a learned one
    assert found["router.scale"].params == 64


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shape": None}, "has no valid shape"),
        ({"shape": [-1, 2]}, "has no valid shape"),
        ({"shape": [True, 8]}, "has no valid shape"),
        ({"shape": [1] * 9}, "has no valid shape"),
        ({"shape": [2**60]}, "has no valid shape"),
        ({"dtype": "F7"}, "has the unknown dtype F7"),
        ({"dtype": 16}, "has the unknown dtype 16"),
        ({"dtype": None}, "has the unknown dtype None"),
        ({"shape": [4, 5]}, "needs 40 bytes by its shape, and has 32"),
    ],
)
def test_entries_that_contradict_themselves(change: dict[str, Any], says: str) -> None:
    header = header_of([tensor("a.weight", "BF16", 4, 4)])
    assert tensors_of(header, "here") == [tensor("a.weight", "BF16", 4, 4)]
    header["a.weight"] |= change
    with pytest.raises(LemnosError, match=says) as caught:
        tensors_of(header, "here", "the fix")
    assert (caught.value.where, caught.value.fix) == ("here", "the fix")
