"""Claude Code's billing line, and vectors of lengths that a model does not have."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.gateway.prompts import (
    embedding_refusal,
    without_billing_line,
    without_own_dimensions,
)

# As sent by Claude Code 2.1.37, 2.1.120 and 2.1.177.
LINES = (
    "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch=fa690;",
    "x-anthropic-billing-header: cc_version=2.1.120.cf9; cc_entrypoint=cli; cch=543cf;",
    "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=sdk-cli; cch=0aaa9; cc_is_subagent=true;",
    "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=sdk-cli; cch=0aaa9",
)
PROMPT = "You are Claude Code, Anthropic's official CLI for Claude."
USER = {"role": "user", "content": "hey"}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


CACHED = text(PROMPT, cache_control={"type": "ephemeral"})


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([text("LINE"), CACHED], [CACHED]),
        ([text("LINE\n" + PROMPT)], [text(PROMPT)]),
        ("LINE\n\n" + PROMPT, PROMPT),
        ("LINE\r\n" + PROMPT, PROMPT),
        ("LINE", None),
        ([text("LINE")], None),
    ],
)
def test_the_line_goes_and_the_rest_stays(line: str, before: Any, after: Any) -> None:
    put = _put(before, line)
    asked = {"model": "m", "system": put, "messages": [USER], "x": {"y": 1}}
    as_it_was = copy.deepcopy(asked)
    rest = {"model": "m", "messages": [USER], "x": {"y": 1}}
    want = rest if after is None else rest | {"system": after}
    assert without_billing_line(asked) == want
    assert asked == as_it_was

    # The same prompt as a first message, as in chat requests.
    for role in ("system", "developer"):
        chat = {"model": "m", "messages": [{"role": role, "content": put}, USER]}
        head = [] if after is None else [{"role": role, "content": after}]
        assert without_billing_line(chat) == {"model": "m", "messages": [*head, USER]}


def test_requests_of_one_session_begin_alike() -> None:
    one, two = (
        without_billing_line({"system": [text(line), CACHED]}) for line in LINES[:2]
    )
    assert one == two


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"system": PROMPT},
        {"system": ""},
        {"system": []},
        {"system": None},
        {"system": 7, "messages": "no"},
        {"system": [7]},
        {"system": [{"type": "text", "text": None}]},
        {"system": f"{PROMPT}\n{LINES[0]}"},
        {"system": [CACHED, text(LINES[0])]},
        {"messages": []},
        {"messages": [None]},
        {"messages": [{"role": "user", "content": LINES[0]}]},
        {"messages": [USER, {"role": "system", "content": LINES[0]}]},
        {"system": "x-anthropic-billing-header: a form that nobody has seen"},
        {"system": "What is x-anthropic-billing-header: cch=1; for?"},
    ],
)
def test_other_requests_stay_as_they_are(asked: dict[str, Any]) -> None:
    assert without_billing_line(asked) is None


def test_a_prompt_on_the_same_line_is_not_lost() -> None:
    got = without_billing_line({"system": f"{LINES[0]} {PROMPT}"})
    assert got == {"system": PROMPT}


@given(st.text(max_size=80), st.sampled_from(LINES))
def test_no_text_behind_the_line_is_ever_lost(prompt: str, line: str) -> None:
    got = without_billing_line({"system": f"{line}\n{prompt}"})
    assert got is not None
    assert got.get("system", "") == prompt.lstrip()


DIMENSIONS = (1024, 512, 256)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, None),
        ({"dimensions": None}, None),
        ({"dimensions": 1024}, None),
        ({"dimensions": 256}, None),
        (
            {"dimensions": 3072},
            "this model gives vectors of 1024 numbers, or 512 or 256 where asked: 3072 cannot be had",
        ),
        ({"dimensions": 0}, "'dimensions' is not a whole number above 0"),
        ({"dimensions": True}, "'dimensions' is not a whole number above 0"),
        ({"dimensions": "256"}, "'dimensions' is not a whole number above 0"),
        ({"dimensions": 256.0}, "'dimensions' is not a whole number above 0"),
    ],
)
def test_lengths_that_a_model_has_not_are_refused(
    asked: dict[str, Any], sentence: str | None
) -> None:
    assert embedding_refusal(DIMENSIONS, {"input": "x", **asked}) == sentence
    assert embedding_refusal(None, {"input": "x", **asked}) is None


def test_a_model_with_one_length_says_so() -> None:
    assert embedding_refusal((576,), {"dimensions": 64}) == (
        "this model gives vectors of 576 numbers and no other length: 64 cannot be had"
    )


def test_the_models_own_length_is_not_asked_for() -> None:
    asked = {"input": "x", "dimensions": 576}
    assert without_own_dimensions((576,), asked) == {"input": "x"}
    assert without_own_dimensions((576,), {"dimensions": None}) == {}
    assert without_own_dimensions((576, 64), {"dimensions": 64}) is None
    assert without_own_dimensions(None, asked) is None
    assert without_own_dimensions((576,), {"input": "x"}) is None


def _put(shape: Any, line: str) -> Any:
    if isinstance(shape, str):
        return shape.replace("LINE", line)
    return [block | {"text": block["text"].replace("LINE", line)} for block in shape]
