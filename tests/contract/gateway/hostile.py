"""Bad input at both ends: raw requests, raw answers, and neighbours who must not notice."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import json
import os
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h11

from lemnos.deployments.targets import write_table
from lemnos.spec.targets import ClientKey, Route, Target, TargetTable
from tests import upstream
from tests.processes import Process, running

KEY = "right-key"
CHAT = "/v1/chat/completions"
AUTH = f"Authorization: Bearer {KEY}"
TE = "Transfer-Encoding: chunked"
HUNG_UP = 0
"""For a status, where there was no answer."""
PATIENCE_S = 30.0
"""What takes longer hangs."""


@dataclass
class Answer:
    """What a client got, read by a parser that forgives nothing."""

    status: int
    headers: dict[str, str]
    body: bytes
    informational: list[int] = field(default_factory=list)

    @property
    def message(self) -> str:
        """The error's message, in OpenAI's or Anthropic's form."""
        text: str = json.loads(self.body)["error"]["message"]
        return text


class Client:
    """A connection on which a test says what it likes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        self._came = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Whether all of it could be sent."""
        try:
            self.socket.sendall(data)
        except ConnectionError:
            return False
        return True

    def answer(self, method: str = "POST") -> Answer | None:
        """The next answer; None where the gateway hung up instead. Fails on half an answer."""
        reader = self._reader
        if reader.our_state is h11.DONE:
            with contextlib.suppress(h11.LocalProtocolError):
                reader.start_next_cycle()
        if reader.our_state is not h11.IDLE:
            return None  # the last answer said that it would be the last
        reader.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
        reader.send(h11.EndOfMessage())
        got, parts = Answer(0, {}, b""), []
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                data = self._more()
                if not data and not self._came and not got.status:
                    return None
                self._came = True
                reader.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                got.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                got.status = event.status_code
                got.headers = {k.decode(): v.decode() for k, v in event.headers}
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                self._came = bool(reader.trailing_data[0])
                got.body = b"".join(parts)
                return got
            else:
                raise AssertionError(f"{event} where an answer was due")

    def readable(self) -> bool:
        """Whether the gateway has said something already."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def _more(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionError:
            return b""


def post(
    body: bytes,
    *headers: str,
    path: str = CHAT,
    version: str = "HTTP/1.1",
    length: bool = True,
) -> bytes:
    """A request with the right key; its length unless a test says its own."""
    lines = [
        f"POST {path} {version}",
        "Host: 127.0.0.1",
        f"Authorization: Bearer {KEY}",
    ]
    lines += headers
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def chunked(*chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + end


def asking(model: str, **more: Any) -> bytes:
    """A chat for ``model``."""
    message = {"role": "user", "content": "hi"}
    return json.dumps({"model": model, "messages": [message], **more}).encode()


def is_plain(message: str) -> bool:
    """A short sentence for a person, without what only a programmer understands."""
    words = ("Traceback", 'File "', "Error(", "object at 0x")
    return len(message) < 500 and message.isprintable() and not any(
        word in message for word in words
    )  # fmt: skip


@dataclass
class Served:
    """A gateway in front of an engine that misbehaves by the model's name."""

    port: int
    engine: upstream.Upstream
    process: Process
    log: Path

    def ask(self, *requests: bytes) -> Answer | None:
        """The first answer to bytes on a connection of their own."""
        with Client(self.port) as client:
            for request in requests:
                client.send(request)
            return client.answer()

    def earn_retries(self) -> None:
        """Requests that need none: only a fifth of what is asked may be asked again."""
        with Client(self.port) as client:
            for _ in range(30):
                client.send(post(asking("echo")))
                assert client.answer()

    def engine_saw(self, marker: bytes) -> bool:
        """Whether anything of a request with ``marker`` reached the engine."""
        asked = list(self.engine.asked)
        return any(
            marker in a.body or marker in a.head.encode("latin-1") for a in asked
        )

    @contextlib.contextmanager
    def unnoticed_by_others(self) -> Iterator[None]:
        """Others are served all the while and afterwards, and get what is theirs."""
        stop = threading.Event()
        others = [Neighbour(self.port, n, stop) for n in range(2)]
        for other in others:
            other.start()
        try:
            for other in others:
                assert other.served.wait(PATIENCE_S), "the gateway serves nobody"
                assert not other.wrong, other.wrong
            yield
        finally:
            stop.set()
            for other in others:
                other.join()
        for other in others:
            assert not other.wrong, other.wrong
        assert self.process.poll() is None, "the gateway died"


class Neighbour(threading.Thread):
    """Asks, in turn streamed and not, and gets back its own words or notes what else."""

    def __init__(self, port: int, number: int, stop: threading.Event) -> None:
        super().__init__()
        self.served = threading.Event()
        self.wrong = ""
        self._port, self._number, self._stop_now = port, number, stop

    def run(self) -> None:
        try:
            count, last = 0, False
            while not last:
                last = self._stop_now.wait(0.01)  # one more, after all is over
                count += 1
                self._ask(f"neighbour-{self._number}-{count}", streamed=count % 2 == 0)
                self.served.set()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test tells it
            self.wrong = f"{type(error).__name__}: {error}"
            self.served.set()

    def _ask(self, marker: str, streamed: bool) -> None:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=PATIENCE_S
        )
        with contextlib.closing(connection):
            body = asking("echo", marker=marker, stream=streamed)
            connection.request("POST", CHAT, body, {"Authorization": f"Bearer {KEY}"})
            response = connection.getresponse()
            got = response.read().decode()
        expected = marker_stream(marker) if streamed else json.dumps(echoed(marker))
        assert (response.status, got) == (200, expected), (marker, response.status, got)


def echoed(marker: str) -> dict[str, Any]:
    """A chat completion that says ``marker``."""
    message = {"role": "assistant", "content": marker}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": marker, "object": "chat.completion", "choices": [choice]}


def event(text: str) -> bytes:
    """A chunk of a streamed chat."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    chunk = {"id": "1", "object": "chat.completion.chunk", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def marker_stream(marker: str) -> str:
    """A stream that says ``marker`` three times."""
    return (event(marker) * 3 + b"data: [DONE]\n\n").decode()


def echo(request: dict[str, Any]) -> upstream.Script:
    """Answers with the request's marker."""
    marker = str(request.get("marker"))
    if request.get("stream"):
        return upstream.stream(*[event(marker)] * 3, b"data: [DONE]\n\n")
    return upstream.answer(json.dumps(echoed(marker)).encode())


@contextlib.contextmanager
def serving(
    directory: Path,
    scripts: Mapping[str, upstream.Script],
    *,
    extra: tuple[Route, ...] = (),
    flags: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Served]:
    """A gateway whose model ``x`` is served by ``scripts["x"]`` alone, ``x+`` with a cloud
    behind it that echoes, and ``echo`` by an engine as it should be.

    Misbehaving targets get half a second for their first byte, and between two.
    """

    def by_model(writer: upstream.Writer) -> Any:
        # That the gateway resets a connection is meant, and no error for the log.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        request = json.loads(engine.asked[-1].body or b"{}")
        script = scripts.get(str(request.get("model")))
        return (script or echo(request))(writer)

    with upstream.serving(by_model) as engine:
        well = Target(name="well", base_url=engine.url)
        cloud = Target(name="cloud", kind="cloud", base_url=engine.url, model="echo")
        routes = [Route(model="echo", aliases=("other",), targets=(well,)), *extra]
        for name in scripts:
            bad = Target(
                name=f"bad-{name}", base_url=engine.url, model=name,
                connect_s=5, first_byte_s=0.5, idle_s=0.5,
            )  # fmt: skip
            routes.append(Route(model=name, targets=(bad,)))
            again = bad.model_copy(update={"name": f"bad-{name}+"})
            routes.append(Route(model=f"{name}+", targets=(again,), cloud=(cloud,)))
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        keys = (ClientKey(name="tests", sha256=digest),)
        write_table(
            directory / "targets.json",
            TargetTable(revision=1, routes=tuple(routes), keys=keys),
        )
        with _process(directory, flags, environment or {}) as (process, log):
            assert process.stdout
            line = process.stdout.readline()
            assert line.startswith("listening"), log.read_text()
            yield Served(int(line.rpartition(":")[2]), engine, process, log)
        said = log.read_text()
        assert "Traceback" not in said and "never retrieved" not in said, said


@contextlib.contextmanager
def _process(
    directory: Path, flags: tuple[str, ...], environment: Mapping[str, str]
) -> Iterator[tuple[Process, Path]]:
    log = directory / "gateway.log"
    words = ["--port", "0", *flags, "--targets", str(directory / "targets.json")]
    proxies = {name for name in os.environ if name.lower().endswith("_proxy")}
    clean = {name: value for name, value in os.environ.items() if name not in proxies}
    clean |= {"LEMNOS_HOME": str(directory / "lemnos"), "HOME": str(directory)}
    clean |= environment
    with (
        log.open("wb") as errors,
        running("lemnos.gateway", *words, env=clean, stderr=errors) as process,
    ):
        yield process, log


def raw(*pieces: bytes, end: str = "close") -> upstream.Script:
    """An engine that writes just these bytes; ``end`` is close, reset, keep or hang."""

    async def script(writer: upstream.Writer) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if end == "reset":
            writer.transport.abort()
        elif end == "close":
            writer.close()
        elif end == "hang":
            await asyncio.Event().wait()

    return script
