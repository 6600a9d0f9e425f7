"""What is taken out of logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from lemnos.deployments.files import Tail, last_lines
from lemnos.wire.redact import redact

KEY = "Zk3_9fQx-7LmPq2RtVw8YbN4cH6jD1sA0eU5gTiKo"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"Authorization: Bearer {KEY}", "Authorization: Bearer ***"),
        (f'"authorization": "bearer {KEY}",', '"authorization": "bearer ***",'),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic ***"),
        (f"x-api-key: {KEY}\r\n", "x-api-key: ***\r\n"),
        (f"args: api_key=['{KEY}'], port=1", "args: api_key=['***'], port=1"),
        (
            f"vllm serve m --api-key {KEY} --port 1",
            "vllm serve m --api-key *** --port 1",
        ),
        (f"use sk-ant-{KEY} or sk-{KEY}.", "use *** or ***."),
        (f"lemnos-{KEY} hf_abcdefghijKLMNOPqrst", "*** ***"),
        ("postgresql://me:s3cret@db/x", "postgresql://me:***@db/x"),
        # Nothing secret:
        ("a risk-averse task-force", "a risk-averse task-force"),
        (
            "lemnos-gateway: hf_transfer, sk-learn",
            "lemnos-gateway: hf_transfer, sk-learn",
        ),
        (
            "max_tokens: 4096, http://h:8000/v1 a@b",
            "max_tokens: 4096, http://h:8000/v1 a@b",
        ),
        ("a Basic authentication", "a Basic authentication"),
    ],
)
def test_keys_are_taken_out(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) == clean


def test_logs_of_engines_are_read_without_keys(tmp_path: Path) -> None:
    log = tmp_path / "engine-0.log"
    log.write_text(f"args: api_key=['{KEY}']\nready\n")
    clean = ["args: api_key=['***']", "ready"]
    assert last_lines(log, 10) == clean
    assert Tail(log, from_end=False).lines() == clean
