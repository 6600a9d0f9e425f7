"""A hub's models described by ranges: what is asked for, what is sent, and what goes wrong."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lemnos.errors import LemnosError
from lemnos.models import remote
from lemnos.models.architecture import architecture_of
from lemnos.models.config import Config
from lemnos.models.describe import describe
from lemnos.models.safetensors import INDEX
from lemnos.spec.architecture import Architecture
from tests.hub import Hub, serving
from tests.unit.models.checkpoints import file_of, tensors_of
from tests.unit.models.configs import config_of

NAME = "org/model"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
CONFIG: dict[str, Any] = {
    **config_of("qwen3-8b").data,
    **{"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4},
    **{"num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64},
    **{"vocab_size": 4096},
}


def repository(data: dict[str, Any] = CONFIG) -> dict[str, bytes]:
    """A repository with real files: some 20 MB in two shards, and their index."""
    found = tensors_of(architecture_of(Config(data, "x")))
    half = len(found) // 2
    parts = dict(zip(SHARDS, (found[:half], found[half:]), strict=True))
    weight_map = {each.name: file for file in parts for each in parts[file]}
    return {
        "config.json": json.dumps(data).encode(),
        INDEX: json.dumps({"weight_map": weight_map}).encode(),
        **{file: file_of(tensors) for file, tensors in parts.items()},
    }


WHOLE = repository()
WEIGHTS = sum(len(WHOLE[file]) for file in SHARDS)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub({NAME: dict(WHOLE)})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("MODELSCOPE_DOMAIN", hub.url)
        monkeypatch.setattr("lemnos.models.remote.time.sleep", lambda _: None)
        yield hub


def files(hub: Hub) -> dict[str, bytes]:
    return hub.repositories[NAME]


def described(**asked: Any) -> Architecture:
    (found,) = describe(f"hf://{NAME}", **asked)
    return found.architecture


def test_a_config_is_enough(hub: Hub) -> None:
    found = described()
    expected = architecture_of(Config(CONFIG, "x"))
    assert found.parameters == expected.parameters
    assert found.notes == ()  # the files have as many bytes as that makes
    assert [path for path, _ in hub.requests] == ["config.json"]
    assert hub.sent == len(WHOLE["config.json"])


def test_headers_are_read_without_the_weights(hub: Hub) -> None:
    found = described(trust_headers=True)
    expected = architecture_of(Config(CONFIG, "x"))
    assert found.parameters == expected.parameters
    assert found.checkpoint_bytes == expected.checkpoint_bytes
    assert found.layers[0].attention == expected.layers[0].attention
    assert all(range_.startswith("bytes=0-") for _, range_ in hub.requests)
    assert WEIGHTS > 12e6
    assert hub.sent <= 2 * remote.FIRST + len(WHOLE[INDEX]) + len(WHOLE["config.json"])


def test_headers_alone_without_config_and_index(hub: Hub) -> None:
    del files(hub)["config.json"], files(hub)[INDEX]
    assert described(trust_headers=True).parameters == described_size()
    with pytest.raises(LemnosError, match="has no config.json") as caught:
        described()
    assert "--trust-headers" in caught.value.fix


def described_size() -> int:
    return architecture_of(Config(CONFIG, "x")).parameters


def test_long_headers_take_a_second_request(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "FIRST", 100)
    assert described(trust_headers=True).parameters == described_size()
    count = struct.unpack("<Q", WHOLE[SHARDS[0]][:8])[0]
    asked = [range_ for path, range_ in hub.requests if path == SHARDS[0]]
    assert asked == ["bytes=0-99", f"bytes=100-{8 + count - 1}"]


def test_a_hub_without_ranges_is_left_in_the_middle(hub: Hub) -> None:
    hub.ranges = False
    assert described(trust_headers=True).parameters == described_size()


def test_modelscope_too(hub: Hub) -> None:
    (found,) = describe(f"modelscope://{NAME}", trust_headers=True)
    assert found.architecture.parameters == described_size()
    assert hub.sent < WEIGHTS / 50


def test_weights_in_another_layout_are_not_counted_twice(hub: Hub) -> None:
    files(hub)["original/model.safetensors"] = WHOLE[SHARDS[0]]
    files(hub)["consolidated.safetensors"] = WHOLE[SHARDS[0]]
    assert described().notes == ()
    del files(hub)[INDEX]
    assert described(trust_headers=True).parameters == described_size()


def test_files_of_another_size_than_the_config_says(hub: Hub) -> None:
    files(hub)["config.json"] = json.dumps(CONFIG | {"num_hidden_layers": 8}).encode()
    (note,) = described().notes
    assert note.startswith("its files hold") and "figures follow" in note
    with pytest.raises(LemnosError, match="has 4 layers .* its config says 8"):
        described(trust_headers=True)


def test_mtp_layers_are_looked_for_in_the_index(hub: Hub) -> None:
    data = CONFIG | {"num_nextn_predict_layers": 1}
    files(hub)["config.json"] = json.dumps(data).encode()
    assert described().mtp == ()
    del files(hub)[INDEX]  # then in the headers
    assert described().mtp == ()
    assert hub.sent < WEIGHTS / 50


def test_modelopts_file_beside_the_config(hub: Hub) -> None:
    said = {"quantization": {"quant_algo": "NVFP4"}}
    files(hub)["hf_quant_config.json"] = json.dumps(said).encode()
    assert described().stored == "nvfp4"


def test_quantized_on_load(hub: Hub) -> None:
    assert described(quantization="fp8").stored == "fp8-tensor"
    assert described(quantization="fp8", trust_headers=True).stored == "fp8-tensor"


def test_trouble_on_the_way_is_tried_again(hub: Hub) -> None:
    hub.statuses = [503]
    hub.cuts = [3]
    assert described().parameters == described_size()
    hub.statuses = [503] * remote.ATTEMPTS
    with pytest.raises(LemnosError, match="the hub answered 503"):
        described()
    hub.statuses = [403]
    with pytest.raises(LemnosError, match="the hub forbids it"):
        described()


def lie(count: int) -> bytes:
    return struct.pack("<Q", count) + WHOLE[SHARDS[1]][8:]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({SHARDS[1]: lie(0)}, "its header would have 0 bytes"),
        ({SHARDS[1]: lie(2**63)}, "its header would have 9223372036854775808 bytes"),
        ({SHARDS[1]: lie(90_000_000)}, "is cut off within its header"),
        ({SHARDS[1]: lie(50)}, "has a header that is not valid JSON"),
        ({SHARDS[1]: b"1234"}, "not even the length of its header"),
        ({SHARDS[1]: WHOLE[SHARDS[1]][:-1]}, "is cut off: it needs"),
        ({SHARDS[1]: WHOLE[SHARDS[1]] + b"x"}, "has 1 bytes after the data"),
        ({SHARDS[1]: None}, "names model-00002-of-00002.safetensors, which .* lacks"),
        ({SHARDS[1]: WHOLE[SHARDS[0]]}, "and the headers do not agree"),
        ({INDEX: b"{}"}, "is not a valid index"),
        ({INDEX: b'{"weight_map": {"a": "../b"}}'}, "names no plain files"),
        ({"config.json": b"{"}, "is not valid JSON"),
        ({"config.json": b""}, "is not valid JSON"),
        ({"config.json": b" " * (64 * 1024**2 + 1)}, "has more than 67108864 bytes"),
        (
            {**dict.fromkeys(SHARDS), INDEX: None, "model.gguf": b"GGUF"},
            "has no safetensors files whose headers",
        ),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_damaged_files_are_a_sentence(
    hub: Hub, changes: dict[str, bytes | None], says: str
) -> None:
    for path, data in changes.items():
        if data is None:
            del files(hub)[path]
        else:
            files(hub)[path] = data
    with pytest.raises(LemnosError, match=says) as caught:
        described(trust_headers=True)
    assert caught.value.where.startswith(f"hf://{NAME}")
    assert caught.value.fix


def test_gguf_repositories_say_what_serves_them(hub: Hub) -> None:
    hub.repositories[NAME] = {"model.gguf": b"GGUF"}
    with pytest.raises(LemnosError, match="has GGUF files") as caught:
        described()
    assert "lemnos up" in caught.value.fix


def test_an_unknown_revision(hub: Hub) -> None:
    with pytest.raises(LemnosError, match="has no revision 'v9'"):
        described(revision="v9")


def test_a_hub_that_falls_silent_is_not_waited_for(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TIMEOUT_S", 0.2)
    hub.held = threading.Event()
    with pytest.raises(LemnosError, match="cannot be reached .*timed out"):
        described()
