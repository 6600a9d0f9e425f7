"""The request log, and what is taken out of logs."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

import pytest

from lemnos.gateway.requestlog import RequestLog, redact
from tests.entries import ENTRY, entry

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


def test_a_line_of_json_for_each_request() -> None:
    out = io.BytesIO()
    log = RequestLog(out=out)
    log.write(ENTRY, {"messages": "private"})
    log.write(entry(request_id='two\n"lines"', input_tokens=None))
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first == asdict(ENTRY)
    assert second["request_id"] == 'two\n"lines"'
    assert second["input_tokens"] is None


def test_prompts_only_if_asked_and_without_keys() -> None:
    out = io.BytesIO()
    request = {"messages": [{"content": f'my "key" is sk-{KEY}\n'}], "model": "qwen"}
    RequestLog("prompts", out).write(ENTRY, request)
    assert out.getvalue().count(b"\n") == 1
    line = json.loads(out.getvalue())
    assert line["request"]["messages"] == [{"content": 'my "key" is ***\n'}]
    assert line["model"] == "qwen"


def test_nothing_if_so_said_and_a_broken_log_stops_nothing() -> None:
    out = io.BytesIO()
    RequestLog("none", out).write(ENTRY)
    assert out.getvalue() == b""
    RequestLog(out=out).write(entry(request_id="\ud800"))
    assert out.getvalue() == b""
    out.close()
    RequestLog(out=out).write(ENTRY)
