"""Hosts that are slow or silent hold nobody up."""

from __future__ import annotations

import threading

import pytest

from lemnos.errors import LemnosError
from lemnos.launchers import watch
from lemnos.launchers.watch import Watch
from tests.waiting import until


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PATIENCE_S", 0.05)
    monkeypatch.setattr(watch, "FRESH_S", 0.0)


def look(made: Watch[str]) -> Watch[str]:
    made.look()
    return made


def test_a_slow_host_is_silent_until_it_answers_and_asked_once_at_a_time() -> None:
    may_answer, asked = threading.Event(), []

    def ask(host: str) -> str:
        asked.append(host)
        if host == "slow":
            may_answer.wait(30)
        return host.upper()

    made = Watch(ask, ("quick", "slow"))
    for _ in range(3):
        made.look()
    assert made.last == {"quick": "QUICK"} and list(made.silent) == ["slow"]
    assert asked.count("slow") == 1
    may_answer.set()
    until(lambda: not look(made).silent)
    assert made.last["slow"] == "SLOW"


def test_one_that_fails_keeps_its_last_word() -> None:
    answers: list[str | LemnosError] = ["one", LemnosError("no route"), "two"]

    def ask(host: str) -> str:
        answer = answers.pop(0)
        if isinstance(answer, LemnosError):
            raise answer
        return answer

    made = Watch(ask, ("n1",))
    made.look()
    assert made.last == {"n1": "one"}
    made.look()
    assert made.last == {"n1": "one"} and made.silent["n1"].what == "no route"
    until(lambda: not look(made).silent)
    assert made.last == {"n1": "two"}


def test_what_was_asked_before_something_was_done_does_not_count() -> None:
    may_answer, answers = threading.Event(), ["before", "after"]

    def ask(host: str) -> str:
        answer = answers.pop(0) if answers else "after"
        if answer == "before":
            may_answer.wait(30)
        return answer

    made = Watch(ask, ("n1",))
    made.look()
    made.forget("n1")
    until(lambda: look(made).last)
    may_answer.set()
    made.look()
    assert made.last == {"n1": "after"}


def test_an_answer_is_good_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FRESH_S", 1000.0)
    asked: list[str] = []

    def ask(host: str) -> str:
        asked.append(host)
        return host

    made = Watch(ask, ("n1",))
    for _ in range(3):
        made.look()
    assert len(asked) == 1
    made.forget("n1")
    made.look()
    assert len(asked) == 2
