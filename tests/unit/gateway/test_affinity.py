"""Prefix affinity: what identifies a prompt, and which replica it goes to."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.gateway.affinity import Affinity, prompt_blocks, session_of
from lemnos.spec.targets import ENGINE_APIS, Api

REPLICAS = ("a", "b", "c", "d")
IDLE: dict[str, int] = {}

Blocks = tuple[int, ...]


def text(size: int, seed: object = 0) -> str:
    return random.Random(str(seed)).randbytes(size // 2).hex()


def say(role: str, size: int, seed: object = 0) -> dict[str, Any]:
    return {"role": role, "content": text(size, (role, seed))}


def blocks_of(path: list[int]) -> Blocks:
    """Blocks as prompts have them: each stands for all before it."""
    return tuple(hash(tuple(path[:end])) for end in range(1, len(path) + 1))


def common(one: Blocks, other: Blocks) -> int:
    same = 0
    while same < min(len(one), len(other)) and one[same] == other[same]:
        same += 1
    return same


# Few children a node, so that prompts share beginnings.
prompts = st.lists(st.integers(0, 2), max_size=14).map(blocks_of)
loads = st.fixed_dictionaries({name: st.integers(0, 300) for name in REPLICAS})
sessions = st.sampled_from([None, "one", "two"])
sent = st.tuples(st.sampled_from(REPLICAS), prompts, sessions)
histories = st.lists(sent, max_size=60)


def after(history: list[tuple[str, Blocks, str | None]], cap: int = 16_384) -> Affinity:
    affinity = Affinity(cap)
    for replica, blocks, session in history:
        affinity.remember(replica, blocks, session)
    return affinity


# --- what identifies a prompt


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_a_message_more_keeps_all_blocks(api: Api) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    request: dict[str, Any] = {"model": "m", "tools": tools, "messages": []}
    if api == "messages":
        request["system"] = text(700, "system")
    before: Blocks = ()
    for turn in range(40):
        role = "assistant" if turn % 2 else "user"
        request["messages"].append(say(role, 100 + 37 * turn, turn))
        blocks = prompt_blocks(api, request)
        assert blocks[: len(before)] == before
        before = blocks
    assert len(before) > 30


@pytest.mark.parametrize(
    ("api", "name", "short", "long"),
    [
        ("completions", "prompt", text(3_000), text(3_000) + text(3_000, 1)),
        ("completions", "prompt", list(range(900)), list(range(1_800))),
        ("responses", "input", text(3_000), text(3_000) + text(3_000, 1)),
        (
            "responses",
            "input",
            [say("user", 2_000)],
            [say("user", 2_000), say("assistant", 2_000)],
        ),
    ],
)
def test_a_prompt_that_goes_on_keeps_all_blocks(
    api: Api, name: str, short: object, long: object
) -> None:
    first, then = (prompt_blocks(api, {name: value}) for value in (short, long))
    assert first and len(then) > len(first)
    assert then[: len(first)] == first


def test_no_closing_bracket_is_in_a_block() -> None:
    for size in range(300, 556):  # one of them would end a block with the bracket
        messages = [{"role": "user", "content": "x" * size}]
        first = prompt_blocks("chat", {"messages": messages})
        then = prompt_blocks("chat", {"messages": [*messages, say("assistant", 600)]})
        assert then[: len(first)] == first


def test_what_comes_first_changes_all_blocks() -> None:
    messages = [say("user", 5_000)]
    seen = [
        prompt_blocks("messages", {"messages": messages, **more})
        for more in ({}, {"system": "Be brief."}, {"tools": [{"name": "f"}]})
    ]
    seen.append(prompt_blocks("responses", {"input": messages}))
    seen.append(prompt_blocks("responses", {"input": messages, "instructions": "x"}))
    starts = {blocks[0] for blocks in seen}
    # Without a system prompt, messages and input are the same text.
    assert len(starts) == len(seen) - 1
    assert seen[0] == seen[3]


def test_what_is_not_in_the_prompt_changes_nothing() -> None:
    request = {"messages": [say("user", 5_000)]}
    other = {**request, "model": "m", "temperature": 1, "stream": True, "user": "u"}
    assert prompt_blocks("chat", request) == prompt_blocks("chat", other)


def test_prompts_without_blocks() -> None:
    for api in ENGINE_APIS:
        assert prompt_blocks(api, {}) == ()
        assert prompt_blocks(api, {"messages": None, "prompt": "", "input": []}) == ()
    assert prompt_blocks("chat", {"messages": [say("user", 100)]}) == ()
    assert prompt_blocks("embeddings", {"input": text(9_000)}) == ()
    assert prompt_blocks("tokenize", {"prompt": text(9_000)}) == ()


def test_bodies_that_nobody_should_send() -> None:
    deep = orjson.loads(b'{"messages":' + b"[" * 300 + b"]" * 300 + b"}")
    assert prompt_blocks("chat", deep) == ()
    huge = prompt_blocks("completions", {"prompt": "x" * 9_000_000})
    assert 1_000 < len(huge) < 1_100  # of its first MiB
    assert prompt_blocks("chat", {"messages": 5, "tools": "x" * 600})


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner), max_leaves=5))
def test_any_value_has_blocks_or_none(value: object) -> None:
    for api in ENGINE_APIS:
        request = {"messages": value, "prompt": value, "input": value, "tools": value}
        assert prompt_blocks(api, request) == prompt_blocks(api, request)


@pytest.mark.parametrize(
    ("headers", "request_", "session"),
    [
        ({b"x-claude-code-session-id": b"57a1"}, {}, "57a1"),
        ({b"session-id": b"codex"}, {"prompt_cache_key": "other"}, "codex"),
        ({b"session_id": b"codex"}, {}, "codex"),
        ({b"x-session-id": b" s "}, {}, "s"),
        ({b"x-session-affinity": b"ses_1"}, {}, "ses_1"),
        ({b"x-session-id": b"s", b"x-claude-code-session-id": b"c"}, {}, "c"),
        ({}, {"prompt_cache_key": "key"}, "key"),
        ({}, {"metadata": {"user_id": "user_1f_account__session_57a1"}}, "57a1"),
        (
            {},
            {"metadata": {"user_id": '{"device_id":"d","session_id":"54c1"}'}},
            "54c1",
        ),
        # What names a person, or nothing.
        ({}, {"user": "u", "safety_identifier": "u"}, None),
        ({}, {"metadata": {"user_id": "13803d75-b4b5"}}, None),
        ({}, {"metadata": {"user_id": '{"device_id":"d"}'}}, None),
        ({}, {"metadata": {"user_id": '{"session_id":7}'}}, None),
        ({}, {"metadata": {"user_id": "{broken"}}, None),
        ({}, {"metadata": "text"}, None),
        ({}, {"prompt_cache_key": ["a"]}, None),
        ({b"x-session-id": b"  "}, {}, None),
        ({b"x-session-id": b"s" * 257}, {}, None),
    ],
)
def test_sessions(
    headers: dict[bytes, bytes], request_: dict[str, Any], session: str | None
) -> None:
    assert session_of(headers, request_) == session


# --- which replica it goes to


@given(histories, loads, prompts, sessions, st.permutations(REPLICAS))
def test_all_replicas_once_and_alike_in_any_order(
    history: list[tuple[str, Blocks, str | None]],
    load: dict[str, int],
    blocks: Blocks,
    session: str | None,
    shuffled: list[str],
) -> None:
    affinity = after([(name, (), None) for name in REPLICAS] + history)
    ordered = affinity.order(REPLICAS, load, blocks, session)
    assert sorted(ordered) == sorted(REPLICAS)
    assert affinity.order(shuffled, load, blocks, session) == ordered


@given(histories, loads, prompts, sessions)
def test_the_first_is_within_the_bound(
    history: list[tuple[str, Blocks, str | None]],
    load: dict[str, int],
    blocks: Blocks,
    session: str | None,
) -> None:
    first = after(history).order(REPLICAS, load, blocks, session)[0]
    mean = sum(load.values()) / len(load)
    assert load[first] <= min(load.values()) + max(12, mean / 4) + 4


@given(loads)
def test_without_any_match_the_least_loaded_first(load: dict[str, int]) -> None:
    ordered = Affinity().order(REPLICAS, load, blocks_of([1, 2, 3]))
    assert [load[name] for name in ordered] == sorted(load.values())


@given(histories, loads, prompts, sessions)
def test_the_same_calls_give_the_same_answers(
    history: list[tuple[str, Blocks, str | None]],
    load: dict[str, int],
    blocks: Blocks,
    session: str | None,
) -> None:
    one, other = (
        after(history).order(REPLICAS, load, blocks, session) for _ in range(2)
    )
    assert one == other


@given(histories, st.sampled_from(REPLICAS), loads, prompts, sessions)
def test_a_forgotten_replica_is_as_if_it_had_never_been(
    history: list[tuple[str, Blocks, str | None]],
    gone: str,
    load: dict[str, int],
    blocks: Blocks,
    session: str | None,
) -> None:
    affinity = after(history)
    affinity.forget(gone)
    never = after([it for it in history if it[0] != gone])
    assert affinity.cached_kib(gone, blocks) == 0
    assert len(affinity) == len(never)
    expected = never.order(REPLICAS, load, blocks, session)
    assert affinity.order(REPLICAS, load, blocks, session) == expected


@given(histories, prompts)
def test_what_is_cached_is_the_longest_beginning_that_was_sent(
    history: list[tuple[str, Blocks, str | None]], blocks: Blocks
) -> None:
    affinity = after(history)
    for replica in REPLICAS:
        same = [common(blocks, it[1]) for it in history if it[0] == replica]
        # These prompts are short: the first blocks are 256 bytes each.
        assert affinity.cached_kib(replica, blocks) == max(same, default=0) / 4


@given(histories, prompts, st.integers(1, 9))
def test_memory_is_bounded_and_keeps_beginnings_of_the_latest(
    history: list[tuple[str, Blocks, str | None]], latest: Blocks, cap: int
) -> None:
    affinity = after(history, cap)
    affinity.remember("a", latest)
    assert len(affinity) <= cap * len(REPLICAS)
    assert affinity.cached_kib("a", latest) == min(len(latest), cap) / 4
    # What was dropped was dropped from the end: no more than was sent is ever claimed.
    for _, blocks, _ in history:
        full = after(history).cached_kib("b", blocks)
        assert affinity.cached_kib("b", blocks) <= full


@given(st.lists(st.fixed_dictionaries({n: st.integers(0, 5) for n in REPLICAS})))
def test_a_growing_conversation_stays(turns: list[dict[str, int]]) -> None:
    affinity = Affinity()
    messages = [say("user", 40_000)]
    home = affinity.order(REPLICAS, IDLE, ())[0]
    affinity.remember(home, prompt_blocks("chat", {"messages": messages}))
    for turn, load in enumerate(turns):
        messages.append(say("user", 1_500, turn))
        blocks = prompt_blocks("chat", {"messages": messages})
        assert affinity.order(REPLICAS, load, blocks)[0] == home
        affinity.remember(home, blocks)


def test_a_conversation_leaves_a_replica_that_is_overloaded_and_stays_away() -> None:
    affinity = Affinity()
    blocks = prompt_blocks("chat", {"messages": [say("user", 60_000)]})
    affinity.remember("a", blocks)
    assert affinity.order(REPLICAS, {"a": 11}, blocks)[0] == "a"
    moved = affinity.order(REPLICAS, {"a": 13}, blocks)[0]
    assert moved != "a"
    grown = prompt_blocks(
        "chat", {"messages": [say("user", 60_000), say("user", 9_000)]}
    )
    affinity.remember(moved, grown)
    assert affinity.order(REPLICAS, IDLE, grown)[0] == moved


def test_a_short_prefix_is_worth_no_queue() -> None:
    affinity = Affinity()
    blocks = prompt_blocks("chat", {"messages": [say("user", 2_000)]})
    affinity.remember("a", blocks)
    assert affinity.order(REPLICAS, IDLE, blocks)[0] == "a"
    assert affinity.order(REPLICAS, {"a": 1}, blocks)[0] != "a"


@pytest.mark.parametrize(
    ("prefix", "together", "most"),
    [(0, 0, 101), (100, 0, 101), (8_000, 0, 120), (60_000, 40, 120)],
)
def test_new_conversations_spread(prefix: int, together: int, most: int) -> None:
    affinity = Affinity()
    system = text(prefix, "hot")
    went: list[str] = []
    for number in range(400):
        messages = [say("user", 900, number)]
        blocks = prompt_blocks("messages", {"system": system, "messages": messages})
        flying = Counter(went[-together:] if together else [])
        went.append(affinity.order(REPLICAS, flying, blocks)[0])
        affinity.remember(went[-1], blocks)
    assert max(Counter(went).values()) <= most


def test_one_after_another_stays_where_a_long_prefix_is() -> None:
    """Nobody waits, so nothing is worth reading it again elsewhere."""
    affinity = Affinity()
    messages = [say("system", 60_000)]
    went = set()
    for number in range(600):
        request = {"messages": [*messages, say("user", 900, number)]}
        blocks = prompt_blocks("chat", request)
        went.add(affinity.order(REPLICAS, IDLE, blocks)[0])
        affinity.remember(next(iter(went)), blocks)
    assert len(went) == 1


def test_a_session_goes_home_when_its_prompt_is_another() -> None:
    affinity = Affinity()
    for name in REPLICAS:
        affinity.remember(name, ())
    affinity.remember("c", (), "s")
    compacted = prompt_blocks("chat", {"messages": [say("user", 5_000)]})
    assert affinity.order(REPLICAS, {"c": 1}, compacted, "s")[0] == "c"
    assert affinity.order(REPLICAS, {"c": 1}, compacted, "other")[0] != "c"
    assert affinity.order(REPLICAS, {"c": 3}, compacted, "s")[0] != "c"
    # A prompt that another replica has counts for more than the name.
    long = prompt_blocks("chat", {"messages": [say("user", 20_000)]})
    affinity.remember("b", long)
    assert affinity.order(REPLICAS, IDLE, long, "s")[0] == "b"


def test_a_replica_that_has_just_come_is_not_flooded() -> None:
    affinity = Affinity()
    for number in range(600):
        affinity.remember(REPLICAS[number % 4], ())
    flying = dict.fromkeys(REPLICAS, 8)
    flying["new"] = 0
    while (first := affinity.order((*REPLICAS, "new"), flying, ())[0]) == "new":
        flying[first] += 1
        affinity.remember(first, ())
    assert flying["new"] <= 8 + 4


def test_what_was_served_long_ago_counts_no_more() -> None:
    affinity = Affinity()
    for name in REPLICAS:
        affinity.remember(name, ())
    for _ in range(200):
        affinity.remember("a", ())
    others = {"b": 1, "c": 1, "d": 1}
    assert affinity.order(REPLICAS, others, ())[0] != "a"
    for number in range(256):
        affinity.remember(REPLICAS[number % 4], ())
    assert affinity.order(REPLICAS, others, ())[0] == "a"


def test_one_replica_and_none() -> None:
    assert Affinity().order(("a",), {"a": 99}, blocks_of([1])) == ["a"]
    assert Affinity().order((), IDLE, ()) == []
