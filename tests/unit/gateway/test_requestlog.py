"""The request log, and what is taken out of logs."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

from lemnos.gateway.requestlog import RequestLog
from tests.entries import ENTRY, entry

KEY = "Zk3_9fQx-7LmPq2RtVw8YbN4cH6jD1sA0eU5gTiKo"


def test_a_line_of_json_for_each_request() -> None:
    out = io.BytesIO()
    log = RequestLog(out=out)
    log.write(ENTRY, {"messages": "private"})
    log.write(entry(request_id='two\n"lines"', input_tokens=None))
    assert out.getvalue() == b""
    for _ in range(2):
        log.flush()
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first == asdict(ENTRY)
    assert second["request_id"] == 'two\n"lines"'
    assert second["input_tokens"] is None


def test_prompts_only_if_asked_and_without_keys() -> None:
    out = io.BytesIO()
    request = {"messages": [{"content": f'my "key" is sk-{KEY}\n'}], "model": "qwen"}
    log = RequestLog("prompts", out)
    log.write(ENTRY, request)
    log.flush()
    assert out.getvalue().count(b"\n") == 1
    line = json.loads(out.getvalue())
    assert line["request"]["messages"] == [{"content": 'my "key" is ***\n'}]
    assert line["model"] == "qwen"


def test_nothing_if_so_said_and_a_broken_log_stops_nothing() -> None:
    out = io.BytesIO()
    for log, one in (
        (RequestLog("none", out), ENTRY),
        (RequestLog(out=out), entry(request_id="\ud800")),
    ):
        log.write(one)
        log.flush()
        assert out.getvalue() == b""
    out.close()
    log = RequestLog(out=out)
    log.write(ENTRY)
    log.flush()
