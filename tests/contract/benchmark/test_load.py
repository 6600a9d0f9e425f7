"""The benchmark's load, against servers that do what a test says."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lemnos.benchmark.load import bench, run
from lemnos.errors import LemnosError
from lemnos.spec.record import BenchSpec
from tests import upstream

SPEC = BenchSpec(target="x", requests=4, concurrency=2, input_tokens=8, output_tokens=5)


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def delta(**what: Any) -> bytes:
    return event({"choices": [{"delta": what}]})


ANSWER = (
    delta(role="assistant", content=None),
    delta(reasoning_content="hm"),
    delta(content="a b"),
    event({"choices": [], "usage": {"completion_tokens": 5, "prompt_tokens": 9}}),
    b"data: [DONE]\n\n",
)


def test_what_is_sent_and_what_is_counted() -> None:
    with upstream.serving(upstream.stream(*ANSWER)) as server:
        got, error = asyncio.run(bench(SPEC, server.url, "m", "secret"))
    assert (got["requests"], got["failed"], error) == (4, 0, "")
    assert (got["output_tokens_mean"], got["input_tokens_mean"]) == (5, 9)
    assert got["e2e_ms_p50"] >= got["ttft_ms_p50"] > 0
    bodies = [json.loads(asked.body) for asked in server.asked]
    assert len({body["messages"][0]["content"] for body in bodies}) == 4
    assert {body["max_tokens"] for body in bodies} == {5}
    assert all(body["stream_options"] == {"include_usage": True} for body in bodies)
    assert server.asked[0].headers["authorization"] == "Bearer secret"


def test_tokens_are_the_pieces_where_the_server_does_not_count() -> None:
    with upstream.serving(upstream.stream(*ANSWER[:3])) as server:
        samples = asyncio.run(run(SPEC, server.url, "m", None))
    assert [sample.output_tokens for sample in samples] == [2] * 4
    assert "authorization" not in server.asked[0].headers


@pytest.mark.parametrize("name", ["content", "reasoning", "reasoning_content"])
def test_a_thought_is_a_piece_of_text_wherever_it_is(name: str) -> None:
    with upstream.serving(
        upstream.stream(delta(**{name: "hm"}), *ANSWER[3:])
    ) as server:
        got, _ = asyncio.run(bench(SPEC, server.url, "m", None))
    assert got["ttft_ms_p50"] > 0


def test_as_many_at_once_as_asked_for_and_no_more() -> None:
    meeting: asyncio.Barrier | None = None
    now = most = 0

    async def script(writer: upstream.Writer) -> None:
        nonlocal meeting, now, most
        meeting = meeting or asyncio.Barrier(SPEC.concurrency)
        now += 1
        most = max(most, now)
        await meeting.wait()  # for ever, if fewer are sent at once
        now -= 1
        await upstream.stream(*ANSWER)(writer)

    with upstream.serving(script) as server:
        samples = asyncio.run(run(SPEC, server.url, "m", None))
    assert [sample.error for sample in samples] == [""] * 4
    assert most == SPEC.concurrency


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (upstream.answer(b"busy", "503 Service Unavailable"), "503: busy"),
        (upstream.stream(ANSWER[2], event({"error": {"message": "oom"}})), "oom"),
        (upstream.stream(b"data: {oops\n\n"), "unexpected|key"),
        (upstream.stream(event([1])), "no stream of completions"),
        (upstream.stream(event({"choices": [1]})), "no stream of completions"),
        (upstream.stream(ANSWER[2], end="cut"), ""),
        (upstream.reset, "disconnected|reset"),
    ],
)
def test_a_benchmark_without_an_answer_fails(
    script: upstream.Script, says: str
) -> None:
    with upstream.serving(script) as server:
        with pytest.raises(LemnosError, match=f"(?i)every request failed: .*({says})"):
            asyncio.run(bench(SPEC, server.url, "m"))


def test_failures_among_answers_are_counted_and_the_first_is_told() -> None:
    asked = 0

    async def script(writer: upstream.Writer) -> None:
        nonlocal asked
        asked += 1
        whole, broken = upstream.stream(*ANSWER), upstream.answer(b"no", "500 Oh")
        await (broken if asked == 2 else whole)(writer)

    with upstream.serving(script) as server:
        got, error = asyncio.run(bench(SPEC, server.url, "m"))
    assert (got["requests"], got["failed"], error) == (4, 1, "500: no")
