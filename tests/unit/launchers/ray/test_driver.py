"""What the driver and its actors do without a cluster: words, ports, keys."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from lemnos.launchers.ray import actors, driver, parse
from lemnos.launchers.ray.actors import Host

LOST = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: Host\n\tip: 10.99.0.3\nThe actor died because "
    "its node has died. Node Id: 72e9\n\tthe actor's node was terminated unexpectedly: health check failed"
)


@pytest.mark.parametrize(
    ("said", "how"),
    [
        ("3", "ended with exit code 3"),
        ("0", "ended with exit code 0"),
        ("137", "was killed by SIGKILL"),
        ("255", "ended with exit code 255"),
        ("", "ended (nobody saw how)"),
    ],
)
def test_how_a_process_ended_is_said(said: str, how: str) -> None:
    assert actors._how(said) == how


def test_why_an_actor_was_lost_is_a_few_words() -> None:
    assert driver._reason(RuntimeError(LOST)) == "its node has died"
    assert driver._reason(RuntimeError("no\nwords")) == "no words"
    assert driver._reason(RuntimeError()) == "RuntimeError"


def test_what_it_prints_is_what_lemnos_reads(
    capsys: pytest.CaptureFixture[str],
) -> None:
    driver._say(waits="a host with 8 GPU")
    driver._say(hosts=["10.0.0.1"], port=20000)
    found = parse.told(capsys.readouterr().out)
    assert (found.waits, found.hosts, found.port) == ("a host with 8 GPU", ("10.0.0.1",), 20000)  # fmt: skip
    assert driver._late(["10.0.0.1", "10.0.0.2"], 20000).splitlines() == [
        "LEMNOS_HOST_0=10.0.0.1",
        "LEMNOS_HOST_1=10.0.0.2",
        "LEMNOS_PORT=20000",
        "LEMNOS_INNER_PORT=20001",
    ]


def test_a_key_that_is_there_is_left_and_ours_has_holders(tmp_path: Path) -> None:
    own = tmp_path / "box/engine.key"
    assert actors._hold(str(own), "s3cret", ["a"]) and own.read_text() == "s3cret"
    assert own.stat().st_mode & 0o777 == 0o600
    assert own.parent.stat().st_mode & 0o777 == 0o700
    assert actors._hold(str(own), "s3cret", ["b", "c"])
    holders = Path(f"{own}.held")
    assert {path.name for path in holders.iterdir()} == {"a", "b", "c"}
    theirs = tmp_path / "engine.key"
    theirs.write_text("theirs")
    assert not actors._hold(str(theirs), "s3cret", ["a"])
    assert theirs.read_text() == "theirs" and not Path(f"{theirs}.held").exists()


def test_ports_are_free_ones_in_a_row() -> None:
    first = Host().free_ports(17)
    assert first in actors.PORTS and all(map(actors._is_free, range(first, first + 17)))
    with socket.create_server(("", 0)) as taken:
        assert not actors._is_free(taken.getsockname()[1])
