"""Words and variables of pods: what the kubelet makes of them is what the job has."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lemnos.errors import UsageError
from lemnos.launchers.kubernetes import argv
from lemnos.launchers.late import host
from lemnos.spec.plan import Command, Job

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def expanded(text: str, values: Mapping[str, str]) -> str:
    """As the kubelet does (k8s.io/kubernetes/third_party/forked/golang/expansion, by its documentation)."""
    found, at = [], 0
    while at < len(text):
        if text[at] != "$" or at + 1 == len(text):
            found.append(text[at])
            at += 1
        elif text[at + 1] == "$":
            found.append("$")
            at += 2
        elif text[at + 1] == "(" and ")" in text[at:]:
            name = text[at + 2 : text.index(")", at)]
            found.append(values.get(name, f"$({name})"))
            at += len(name) + 3
        else:
            found.append(text[at])
            at += 1
    return "".join(found)


def ranks(*commands: Sequence[str], **env: str) -> list[Job]:
    return [
        Job(
            deployment="chat",
            role="engine",
            rank=rank,
            command=Command(argv=tuple(words), env=env),
            port=0,
            log="",
        )
        for rank, words in enumerate(commands, start=1)
    ]


def told(words: Sequence[str], rank: int) -> list[str]:
    """The words that a rank's process gets, through the kubelet and, where it is there, a real shell."""
    values = {"LWS_LEADER_ADDRESS": "a-0.a", "LWS_WORKER_INDEX": str(rank)}
    values["LEMNOS_POD_IP"] = f"10.0.0.{rank}"
    given = [expanded(word, values) for word in words]
    if given[:2] != ["sh", "-c"]:
        return given
    script = given[2].replace("exec", "printf '%s\\0'", 1)
    done = subprocess.run(
        ["sh", "-c", script], env=values, capture_output=True, check=True
    )
    return done.stdout.decode().split("\0")[:-1]


@given(TEXTS)
@example("$(HOME) $$(x) $ $")
@example("$(LEMNOS_POD_IP)")
def test_any_text_reaches_the_process_as_it_is(text: str) -> None:
    assert (
        expanded(argv.literal(text), {"HOME": "/home/ann", "LEMNOS_POD_IP": "1"})
        == text
    )


def test_late_hosts_are_variables() -> None:
    assert argv.alone(f"tcp://{host(0)}:1") == "tcp://$(LEMNOS_POD_IP):1"
    # Not LWS_LEADER_ADDRESS: a name that DNS may not know yet when it is bound to.
    assert argv.of_leader(["--addr", f"{host(0)}:5"]) == [
        "--addr",
        "$(LEMNOS_POD_IP):5",
    ]
    env = {"OWN": host(2), "HEAD": host(0), "X": "$(y)"}
    assert argv.env_of_rank(env, 2) == {
        "OWN": "$(LEMNOS_POD_IP)",
        "HEAD": "$(LWS_LEADER_ADDRESS)",
        "X": "$$(y)",
    }


def test_the_rank_needs_no_shell() -> None:
    words = [["serve", "--node-rank", str(r), "--at", host(0)] for r in (1, 2, 3)]
    made = argv.of_workers(ranks(*words))
    assert made[:3] == ["serve", "--node-rank", "$(LWS_WORKER_INDEX)"]
    for rank in (1, 2, 3):
        assert told(made, rank) == ["serve", "--node-rank", str(rank), "--at", "a-0.a"]


@settings(max_examples=12)
@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.lists(TEXTS.filter(bool), max_size=3),
)
@example(2, 0, ["$(date) $HOME `x` 'q' \"p\" \\ \n"])
def test_numbers_that_grow_evenly_are_calculated(
    step: int, start: int, rest: list[str]
) -> None:
    words = [["a", "--start", f"x{step * r + start}y", *rest] for r in (1, 2, 3)]
    made = argv.of_workers(ranks(*words))
    for rank, want in enumerate(words, start=1):
        assert told(made, rank) == want


@pytest.mark.parametrize(
    "words",
    [
        [["a", "1"], ["a", "2"], ["a", "4"]],
        [["a", "b"], ["a", "c"]],
        [["a"], ["a", "b"]],
        [["a", host(1)], ["a", host(1)]],
        [["a", host(3)]],
    ],
)
def test_ranks_that_differ_otherwise_are_refused(words: list[list[str]]) -> None:
    with pytest.raises(UsageError, match="differ in"):
        argv.of_workers(ranks(*words))


def test_variables_of_workers_are_alike() -> None:
    assert argv.env_of_workers(ranks(["a"], A="b")) == {"A": "b"}
    first, second = ranks(["a"], ["a"], IP=host(1))
    own = Command(argv=("a",), env={"IP": host(2)})
    second = second.model_copy(update={"command": own})
    assert argv.env_of_workers([first, second]) == {"IP": "$(LEMNOS_POD_IP)"}
    odd = second.model_copy(update={"command": Command(argv=("a",), env={"IP": "x"})})
    with pytest.raises(UsageError, match="IP"):
        argv.env_of_workers([first, odd])
