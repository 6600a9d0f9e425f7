"""Replicas, the cloud behind them, and what is written down, through the gateway's own process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import pytest

from lemnos.deployments.targets import write_table
from lemnos.gateway.keys import digest
from lemnos.spec.targets import ClientKey, Price, Route, Target, TargetTable
from tests import upstream
from tests.contract.gateway.gateways import BODY, CHAT, Start, sse
from tests.waiting import until

KEY = "a-clients-key-of-this-test"
OTHER = "another-clients-key-here"
MINE = {"Authorization": f"Bearer {KEY}"}
PRICE = Price(input=1.0, output=2.0, cached_input=0.5, as_of="2026-11-21")
DONE = b"data: [DONE]\n\n"


def key_of(name: str = "mine", secret: str = KEY, **limits: Any) -> ClientKey:
    return ClientKey(name=name, sha256=digest(secret), **limits)


def chat(content: str = "hello", model: str = "m") -> bytes:
    answer = {
        "id": "1", "object": "chat.completion", "created": 1, "model": model,
        "choices": [{"index": 0, "finish_reason": "stop",
                     "message": {"role": "assistant", "content": content}}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100,
                  "prompt_tokens_details": {"cached_tokens": 400}},
    }  # fmt: skip
    return json.dumps(answer).encode()


def usage_chunk(model: str = "m") -> bytes:
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": model,
             "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}  # fmt: skip
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def local(url: str, name: str = "near", **more: Any) -> Target:
    return Target(name=name, base_url=url, **more)


def cloud(url: str, **more: Any) -> Target:
    more = {"name": "far", "model": "org/m", "price": PRICE, "apis": ("chat",)} | more
    return Target(kind="cloud", base_url=url + "/api", **more)


def table(
    *near: Target, keys: tuple[ClientKey, ...] = (key_of(),), **route: Any
) -> TargetTable:
    made = Route(model="m", targets=near, **route)
    return TargetTable(revision=1, routes=(made,), keys=keys)


@pytest.fixture
def engines() -> Iterator[Any]:
    with contextlib.ExitStack() as stack:
        yield lambda script: stack.enter_context(upstream.serving(script))


BROKEN = {
    "resets": upstream.reset,
    "answers 500": upstream.answer(b'{"error": {"message": "no"}}', "500 Oops"),
    "is busy": upstream.answer(b"{}", "503 Busy", extra="Retry-After: 9\r\n"),
    "answers garbage": upstream.answer(b"<html>", kind="text/html"),
    "answers 200 with an error": upstream.answer(b'{"error": {"message": "no"}}'),
    "breaks off": upstream.stream(b'{"half', end="cut", kind="application/json"),
    "hangs": upstream.hang,
    "streams an error first": upstream.stream(
        b'data: {"error": {"message": "no"}}\n\n'
    ),
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_the_same_request_goes_to_the_cloud(
    start: Start, engines: Any, script: upstream.Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", "the-providers-key")
    near, far = engines(script), engines(upstream.answer(chat(model="org/m")))
    targets = table(
        local(near.url, first_byte_s=0.5, idle_s=0.5),
        cloud=(cloud(far.url, key_env="FAR_KEY"),),
    )
    gateway = start(table=targets)
    got = gateway.post(headers={**MINE, "X-Forwarded-For": "10.1.2.3"})
    assert got.status_code == 200 and got.headers["x-lemnos-target"] == "far"
    assert got.json()["model"] == "m"
    (asked,) = far.asked
    assert asked.path == "/api" + CHAT
    assert json.loads(asked.body) == {**BODY, "model": "org/m"}
    assert asked.headers["authorization"] == "Bearer the-providers-key"
    assert KEY not in str(asked.headers) and "x-forwarded-for" not in asked.headers


def test_without_keys_no_money_is_spent(start: Start, engines: Any) -> None:
    far = engines(upstream.answer(chat()))
    gateway = start(table=table(cloud=(cloud(far.url),), keys=()))
    got = gateway.post()
    assert got.status_code == 503 and "never spends" in got.json()["error"]["message"]
    assert far.asked == []


def test_a_providers_words_about_our_key_are_not_passed_on(
    start: Start, engines: Any
) -> None:
    words = b'{"error": {"message": "Incorrect API key provided: sk-abc...xyz"}}'
    far = engines(upstream.answer(words, "401 Unauthorized"))
    got = start(table=table(cloud=(cloud(far.url),))).post(headers=MINE)
    assert got.status_code == 502 and "sk-abc" not in got.text
    assert "far: answered 401" in got.json()["error"]["message"]


def test_the_last_targets_own_error_reaches_the_client(
    start: Start, engines: Any
) -> None:
    busy = b'{"error": {"message": "queue is full"}}'
    near = engines(upstream.answer(busy, "429 Too Many", extra="Retry-After: 7\r\n"))
    got = start(table=table(local(near.url))).post(headers=MINE)
    assert (got.status_code, got.content) == (429, busy)
    assert got.headers["retry-after"] == "7"


def test_a_cloud_whose_key_is_not_there_is_said(start: Start) -> None:
    far = cloud("http://127.0.0.1:9", key_env="NO_SUCH_KEY")
    got = start(table=table(cloud=(far,))).post(headers=MINE)
    assert got.status_code == 502
    said = got.json()["error"]["message"]
    assert said == "no target answered (far: NO_SUCH_KEY is not set)"


def test_a_client_of_messages_is_served_by_a_target_of_chat(
    start: Start, engines: Any
) -> None:
    pieces = [*sse("Hel", "lo"), usage_chunk(), DONE]
    far = engines(upstream.stream(*pieces))
    gateway = start(table=table(cloud=(cloud(far.url),)))
    with anthropic.Anthropic(
        base_url=gateway.url, api_key=KEY, max_retries=0
    ) as client:
        messages: Any = BODY["messages"]
        with client.messages.stream(
            model="m", messages=messages, max_tokens=9
        ) as stream:
            assert "".join(stream.text_stream) == "Hello"
            assert stream.get_final_message().usage.output_tokens == 2
    assert far.asked[0].path == "/api" + CHAT
    assert "anthropic-version" in far.asked[0].headers
    far.script = upstream.answer(b'{"error": {"message": "bad"}}', "422 No")
    got = gateway.post({**BODY, "max_tokens": 9}, path="/v1/messages", headers=MINE)
    assert got.status_code == 422 and got.json()["type"] == "error"
    got = gateway.post({**BODY, "messages": 5}, path="/v1/messages", headers=MINE)
    assert got.status_code == 400 and got.json()["type"] == "error"


def test_usage_is_asked_for_and_its_chunk_is_only_for_who_asked(
    start: Start, engines: Any
) -> None:
    near = engines(upstream.stream(*sse("a"), usage_chunk(), DONE))
    gateway = start(table=table(local(near.url)))
    got = gateway.post({**BODY, "stream": True}, headers=MINE)
    assert got.content == sse("a")[0] + DONE
    wanted = {"include_usage": True}
    assert json.loads(near.asked[0].body)["stream_options"] == wanted
    got = gateway.post({**BODY, "stream": True, "stream_options": wanted}, headers=MINE)
    assert got.content == sse("a")[0] + usage_chunk() + DONE


def test_the_ledger_and_the_metrics_know_what_a_request_took(
    start: Start, engines: Any, tmp_path: Path
) -> None:
    near, far = engines(upstream.answer(chat())), engines(upstream.answer(chat()))
    ledger = tmp_path / "ledger.db"
    words = ("--ledger", f"sqlite:///{ledger}")
    targets = table(local(near.url), cloud=(cloud(far.url),))
    gateway = start(table=targets, words=words)
    assert gateway.post(headers=MINE).status_code == 200
    near.script = upstream.stream(*sse("a", "b"), usage_chunk(), DONE)
    assert gateway.post({**BODY, "stream": True}, headers=MINE).status_code == 200
    near.script = upstream.reset
    assert gateway.post(headers=MINE).headers["x-lemnos-target"] == "far"
    shown = gateway.get("/metrics", headers=MINE).text
    assert (
        'gen_ai_request_model="m"' in shown
        and 'lemnos_in_flight{target="near"} 0.0' in shown
    )
    gateway.process.terminate()
    gateway.process.wait()
    columns = "key, target, streamed, status, outcome, attempts, input_tokens, output_tokens, cached_tokens, cost_usd, compare_usd"
    with sqlite3.connect(ledger) as database:
        rows = database.execute(
            f"select {columns} from lemnos_ledger order by number"
        ).fetchall()
        timed = database.execute(
            "select ttft_s, tpot_s from lemnos_ledger order by number"
        ).fetchall()
    # 600 fresh tokens at 1, 400 cached ones at 0.5, 100 written at 2 dollars a million
    asked = pytest.approx((600 + 200 + 200) / 1e6)
    assert rows[0] == ("mine", "near", 0, 200, "ok", 1, 1000, 100, 400, 0.0, asked)
    assert rows[1] == (
        "mine",
        "near",
        1,
        200,
        "ok",
        1,
        7,
        2,
        0,
        0.0,
        pytest.approx(11e-6),
    )
    assert rows[2] == ("mine", "far", 0, 200, "ok", 3, 1000, 100, 400, asked, asked)
    assert timed[0] == (None, None) and all(value is not None for value in timed[1])


def test_limits_of_a_key(start: Start, engines: Any) -> None:
    near = engines(upstream.answer(chat()))
    keys = (
        key_of(requests_per_minute=2),
        key_of("other", OTHER, models=("something-else",)),
        key_of("poor", "the-key-of-a-poor-client", tokens_per_minute=1),
    )
    gateway = start(table=table(local(near.url), keys=keys))
    got = gateway.post(headers=MINE)
    assert got.status_code == 200
    assert gateway.post(headers=MINE).status_code == 200
    got = gateway.post(headers=MINE)
    assert got.status_code == 429 and 1 <= int(got.headers["retry-after"]) <= 60
    assert got.json()["error"]["code"] == "rate_limit_exceeded"
    assert got.headers["x-ratelimit-remaining-requests"] == "0"
    theirs = {"x-api-key": OTHER}
    assert gateway.post(headers=theirs).status_code == 403
    assert gateway.get("/v1/models", headers=theirs).json()["data"] == []
    poor = {"x-api-key": "the-key-of-a-poor-client"}
    assert gateway.post(headers=poor).status_code == 200
    assert gateway.post(headers=poor).status_code == 429
    assert len(near.asked) == 3


def test_an_answer_that_is_stored_is_asked_of_its_replica(
    start: Start, engines: Any
) -> None:
    one = engines(upstream.answer(b'{"id": "resp_1", "object": "response"}'))
    two = engines(upstream.answer(b'{"id": "resp_2", "object": "response"}'))
    keys = (key_of(), key_of("other", OTHER))
    gateway = start(
        table=table(local(one.url, "one"), local(two.url, "two"), keys=keys)
    )

    def respond(headers: dict[str, str] = MINE, **more: Any) -> httpx2.Response:
        body = {"model": "m", "input": "hi", **more}
        return gateway.post(body, path="/v1/responses", headers=headers)

    ids = {respond().json()["id"] for _ in range(8)}
    assert ids == {"resp_1", "resp_2"}
    for name in ids:
        owner = "one" if name == "resp_1" else "two"
        for _ in range(4):
            got = respond(previous_response_id=name)
            assert got.headers["x-lemnos-target"] == owner
    got = gateway.get("/v1/responses/resp_2?include=x", headers=MINE)
    assert got.headers["x-lemnos-target"] == "two"
    assert two.asked[-1].path == "/v1/responses/resp_2?include=x"
    stranger = respond({"x-api-key": OTHER}, previous_response_id="resp_1")
    assert stranger.json()["error"]["code"] == "previous_response_not_found"
    got = gateway.get("/v1/responses/resp_1", headers={"x-api-key": OTHER})
    assert got.status_code == 404
    write_table(gateway.table, table(local(two.url, "two"), keys=keys))
    until(lambda: respond(previous_response_id="resp_1").status_code == 400)
    got = respond(previous_response_id="resp_1").json()["error"]
    assert got["code"] == "previous_response_not_found"
    assert got["param"] == "previous_response_id"


def test_a_cloud_serves_who_would_wait_too_long(start: Start, engines: Any) -> None:
    near, far = engines(upstream.hang), engines(upstream.stream(*sse("far"), DONE))
    targets = table(
        local(near.url), cloud=(cloud(far.url),), policy="local-within", within_ms=300.0
    )
    gateway = start(table=targets)
    streamed = {**BODY, "stream": True}
    got = gateway.post(streamed, headers=MINE)
    assert got.headers["x-lemnos-target"] == "far"
    assert near.hung_up.wait(10), "nobody waits for it any more"


def test_who_waits_sends_the_next_to_the_cloud(start: Start, engines: Any) -> None:
    near, far = engines(upstream.hang), engines(upstream.answer(chat()))
    targets = table(
        local(near.url),
        policy="local-within",
        within_ms=50.0,
    )
    gateway = start(table=targets)
    body = json.dumps({**BODY, "stream": True}).encode()

    def wait_there() -> None:
        with httpx2.Client(trust_env=False) as client, contextlib.suppress(Exception):
            client.post(gateway.url + CHAT, content=body, headers=MINE, timeout=60)

    waiter = threading.Thread(target=wait_there, daemon=True)
    waiter.start()
    until(lambda: near.asked)
    open_cloud = targets.routes[0].model_copy(update={"cloud": (cloud(far.url),)})
    new = targets.model_copy(update={"routes": (open_cloud,), "revision": 2})
    write_table(gateway.table, new)
    until(lambda: gateway.get("/health").json()["revision"] == 2)
    assert gateway.post(headers=MINE).headers["x-lemnos-target"] == "far"
    assert len(near.asked) == 1


def test_a_drained_replica_gets_nothing_and_finishes_what_it_has(
    start: Start, engines: Any
) -> None:
    go_on = threading.Event()

    async def in_two_parts(writer: upstream.Writer) -> None:
        first, second = sse("a", "b")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        writer.write(head + first)
        await writer.drain()
        await asyncio.to_thread(go_on.wait)
        writer.write(second + DONE)
        writer.close()

    one, two = engines(in_two_parts), engines(upstream.answer(chat()))
    gateway = start(table=table(local(one.url, "one")))
    body = json.dumps({**BODY, "stream": True}).encode()
    with (
        httpx2.Client(trust_env=False) as client,
        client.stream("POST", gateway.url + CHAT, content=body, headers=MINE) as stream,
    ):
        pieces = stream.iter_raw()
        assert next(pieces) == sse("a")[0]
        both = table(local(one.url, "one"), local(two.url, "two"))
        drained = both.model_copy(update={"drained": ("one",), "revision": 2})
        write_table(gateway.table, drained)
        until(lambda: gateway.get("/health").json()["revision"] == 2)
        asked = [gateway.post(headers=MINE) for _ in range(6)]
        assert {got.headers["x-lemnos-target"] for got in asked} == {"two"}
        go_on.set()
        assert b"".join(pieces) == sse("b")[0] + DONE
    assert len(one.asked) == 1


def test_no_request_is_dropped_while_configurations_are_applied(
    start: Start, engines: Any
) -> None:
    one, two = engines(upstream.answer(chat("1"))), engines(upstream.answer(chat("2")))
    gateway = start(table=table(local(one.url, "one")))
    asked = []

    def applied(revision: int) -> bool:
        asked.append(gateway.post(headers=MINE).status_code)
        return bool(gateway.get("/health").json()["revision"] == revision)

    for revision in range(2, 12):
        url, name = (two.url, "two") if revision % 2 else (one.url, "one")
        new = table(local(url, name)).model_copy(update={"revision": revision})
        write_table(gateway.table, new)
        until(lambda: applied(revision))  # noqa: B023 - it is called at once
    assert set(asked) == {200}
    assert one.asked and two.asked


def test_a_client_that_goes_away_is_noticed_at_once_in_every_phase(
    start: Start, engines: Any
) -> None:
    for script, body in (
        (upstream.hang, {**BODY, "stream": True}),
        (upstream.hang, BODY),
        (upstream.stream(*sse("a"), end="hang"), {**BODY, "stream": True}),
        (upstream.stream(b'{"ha', end="hang", kind="application/json"), BODY),
    ):
        near = engines(script)
        gateway = start(table=table(local(near.url)))
        with (
            httpx2.Client(trust_env=False) as client,
            contextlib.suppress(httpx2.ReadTimeout),
        ):
            client.post(
                gateway.url + CHAT,
                content=json.dumps(body).encode(),
                headers=MINE,
                timeout=0.5,
            )
        assert near.hung_up.wait(10)
        shown = gateway.get("/metrics", headers=MINE).text
        assert 'lemnos_in_flight{target="near"} 0.0' in shown


def test_a_hung_replica_holds_nobody_else_up(start: Start, engines: Any) -> None:
    hung, well = engines(upstream.hang), engines(upstream.answer(chat()))
    gateway = start(
        table=table(local(hung.url, "hung", first_byte_s=0.3), local(well.url, "well"))
    )
    for _ in range(12):
        assert gateway.post(headers=MINE).status_code == 200
    assert len(hung.asked) < 8, "the breaker keeps requests from it"
