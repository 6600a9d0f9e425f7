"""Both ends of a measurement, in this process, over loopback."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from lemnos.hardware import agent, collect, disk_speed

HERE = "127.0.0.1"
TOKEN = "a-token"


@pytest.fixture
def ports() -> Iterator[list[int]]:
    answer = agent.listen(HERE, TOKEN, [], 2)
    yield answer["chosen"]
    agent.close()


def test_latency_and_bandwidth(ports: list[int]) -> None:
    found = agent.measure(HERE, TOKEN, ports[0], 0.2, 2)
    assert 0 < found["latency_s"] < 1
    assert found["bits_s"] > 1e6


def test_only_who_knows_the_token_is_answered(ports: list[int]) -> None:
    assert agent.reach(HERE, TOKEN, ports) == {"open": ports}
    assert agent.reach(HERE, "another", ports) == {"open": []}
    assert agent.measure(HERE, "another", ports[0], 0.1, 1)["error"]
    with socket.create_connection((HERE, ports[0])) as stranger:
        stranger.sendall(b"x" * 300)  # no line at all
        try:
            assert stranger.recv(10) == b""
        except ConnectionResetError:
            pass


def test_closed_listeners_are_gone(ports: list[int]) -> None:
    agent.close()
    assert agent.reach(HERE, TOKEN, ports) == {"open": []}
    again = agent.listen(HERE, TOKEN, [ports[0]], 0)
    assert again["opened"] == [ports[0]]


def test_ports_in_use_and_other_programs() -> None:
    with socket.create_server((HERE, 0)) as other:
        port = other.getsockname()[1]
        assert agent.listen(HERE, TOKEN, [port], 0)["busy"] == [port]
        agent.close()

        def answer() -> None:
            with other.accept()[0] as connection:
                connection.recv(10)
                connection.sendall(b"HTTP/1.1 400\n")

        thread = threading.Thread(target=answer)
        thread.start()
        found = agent.measure(HERE, TOKEN, port, 0.1, 1)
        thread.join()
    assert found == {"error": f"another program answers on port {port}"}


def test_an_address_that_is_not_here() -> None:
    assert "192.0.2.77" in agent.listen("192.0.2.77", TOKEN, [], 1)["error"]


def test_a_connection_that_breaks_off() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"12")
    theirs.close()
    with ours, pytest.raises(ValueError, match="was closed"):
        agent.read_exactly(ours, 8)


class _Ended(BaseException):
    pass


@pytest.mark.parametrize("module", [agent, collect, disk_speed])
def test_a_script_answers_its_requests(
    module: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``main`` in this process: what it does with the process itself is left out."""
    asked = b'{"limit_s": 9, "paths": []}\n{"do": "close"}\n'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(asked)))
    monkeypatch.setattr("signal.alarm", lambda seconds: None)
    monkeypatch.setattr("threading.Thread.start", lambda thread: thread.run())

    def end(code: int) -> None:
        raise _Ended

    monkeypatch.setattr("os._exit", end)
    if module is agent:

        def receive(lines: object) -> None:
            lines.put(b'{"do": "close"}')  # type: ignore[attr-defined]
            lines.put(b"")  # type: ignore[attr-defined]

        monkeypatch.setattr(agent, "receive", receive)
        with pytest.raises(json.JSONDecodeError):
            agent.main()
    else:
        monkeypatch.setattr(module, "end_with_input", lambda: None)
        monkeypatch.setattr(collect, "collect", lambda: {"name": "x"})
        with pytest.raises(_Ended):
            module.main()  # type: ignore[attr-defined]
    assert capsys.readouterr().out.startswith("\n" + collect.MARK + "{")
