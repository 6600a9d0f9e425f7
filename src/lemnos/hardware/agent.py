"""One end of the measurements between nodes: a script that is sent over SSH.

It answers one request a line on standard input with one line on standard output, and ends
with its input, or when its time is up: nothing of it stays. What it listens on demands a
token that only the two ends know. As ``collect.py``: the standard library, and Python 3.6.
"""
# ruff: noqa: UP006, UP035, UP036, UP045

import contextlib
import errno
import hmac
import json
import os
import queue
import signal
import socket
import statistics
import struct
import sys
import threading
import time
from typing import Any, Dict, List, Tuple

MARK = "lemnos-answer "

CONNECT_S = 3.0  # a firewall that drops packets does not refuse
QUIET_S = 20.0
ROUND_TRIPS = 50
ROUND_TRIPS_S = 5.0
WARM_S = 0.3
HELLO = b"lemnos\n"
BLOCK = 1 << 20


# ---------------------------------------------------------------- the end that listens


class Listener:
    """Everything that listens here, and what it received."""

    def __init__(self, token: str) -> None:
        self.token = token.encode()
        self.sockets: List[socket.socket] = []
        self.received: List[List[int]] = []

    def open(self, address: str, port: int) -> int:
        """Listen on the port (0: any free one) and give its number."""
        server = socket.socket()
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((address, port))
            server.listen(64)
        except OSError:
            server.close()
            raise
        self.sockets.append(server)
        threading.Thread(target=self.accept, args=(server,), daemon=True).start()
        return int(server.getsockname()[1])

    def accept(self, server: socket.socket) -> None:
        """Serve each connection in a thread, until ``close``."""
        while True:
            try:
                connection = server.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        """Do what the other end asks, if it knows the token."""
        with contextlib.suppress(OSError, ValueError), connection:
            connection.settimeout(QUIET_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not hmac.compare_digest(read_line(connection), self.token):
                return
            connection.sendall(HELLO)
            what = read_line(connection)
            if what == b"echo":
                self.echo(connection)
            elif what == b"sink":
                self.sink(connection)
            elif what == b"count":
                self.count(connection)

    def echo(self, connection: socket.socket) -> None:
        """Give each message back."""
        while True:
            message = connection.recv(64)
            if not message:
                return
            connection.sendall(message)

    def sink(self, connection: socket.socket) -> None:
        """Count what comes, and drop it."""
        count = [0]  # a list a thread: adding to one number from several loses some
        self.received.append(count)
        buffer = bytearray(BLOCK)
        while True:
            # MSG_TRUNC: TCP drops the bytes instead of copying them, half as fast again
            got = connection.recv_into(buffer, BLOCK, socket.MSG_TRUNC)
            if not got:
                return
            count[0] += got

    def count(self, connection: socket.socket) -> None:
        """Say how much came, and when that was by the clock here."""
        while connection.recv(1):
            total = sum(count[0] for count in self.received)
            connection.sendall(struct.pack("!Qd", total, time.monotonic()))

    def close(self) -> None:
        """Listen no more."""
        for server in self.sockets:
            # close() alone leaves a thread that waits in accept() listening
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()


OPEN: List[Listener] = []


def listen(address: str, token: str, ports: List[int], samples: int) -> Dict[str, Any]:
    """Open the ports, and ``samples`` that the system chooses."""
    listener = Listener(token)
    OPEN.append(listener)
    busy: List[int] = []
    refused: List[int] = []
    try:
        chosen = [listener.open(address, 0) for _ in range(samples)]
    except OSError as error:
        return {"error": f"{address}: {error.strerror}"}
    opened = []
    for port in ports:
        try:
            opened.append(listener.open(address, port))
        except OSError as error:
            (busy if error.errno == errno.EADDRINUSE else refused).append(port)
    return {"opened": opened, "chosen": chosen, "busy": busy, "refused": refused}


def close() -> Dict[str, Any]:
    """Listen no more."""
    while OPEN:
        OPEN.pop().close()
    return {}


# ---------------------------------------------------------------- the end that connects


def reach(address: str, token: str, ports: List[int]) -> Dict[str, Any]:
    """Which of the ports the other end answers on."""
    answered: List[int] = []

    def attempt(port: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            connect(address, port, token, b"nothing").close()
            answered.append(port)

    in_threads(attempt, [(port,) for port in ports])
    return {"open": [port for port in ports if port in answered]}


def measure(
    address: str, token: str, port: int, seconds: float, streams: int
) -> Dict[str, Any]:
    """Round trip in seconds (the median), and bits a second with that many streams."""
    try:
        return {
            "latency_s": round_trip(address, port, token),
            "bits_s": bandwidth(address, port, token, seconds, streams),
        }
    except (OSError, ValueError) as error:
        return {"error": str(error) or type(error).__name__}


def round_trip(address: str, port: int, token: str) -> float:
    """The median of small messages, there and back."""
    times: List[float] = []
    with connect(address, port, token, b"echo") as peer:
        deadline = time.monotonic() + ROUND_TRIPS_S
        while len(times) < 5 + ROUND_TRIPS and (
            time.monotonic() < deadline or len(times) < 10
        ):
            began = time.perf_counter()
            peer.sendall(b"01234567")
            read_exactly(peer, 8)
            times.append(time.perf_counter() - began)
    return statistics.median(times[5:])  # the first ones warm up


def bandwidth(
    address: str, port: int, token: str, seconds: float, streams: int
) -> float:
    """Bits a second that arrive there, by the clock there."""
    over = threading.Event()
    peers = [connect(address, port, token, b"sink") for _ in range(streams)]
    threads = [
        threading.Thread(target=flood, args=(peer, over), daemon=True) for peer in peers
    ]
    try:
        with connect(address, port, token, b"count") as counter:
            for thread in threads:
                thread.start()
            time.sleep(WARM_S)
            first, began = count_at(counter)
            time.sleep(seconds)
            last, ended = count_at(counter)
    finally:
        over.set()
        for peer in peers:
            # what still waits to be sent is dropped
            peer.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            peer.close()
    return 8 * (last - first) / (ended - began)


def flood(peer: socket.socket, over: threading.Event) -> None:
    """Send as fast as it goes."""
    block = bytes(BLOCK)
    peer.settimeout(1)
    while not over.is_set():
        try:
            peer.send(block)
        except socket.timeout:  # noqa: UP041
            continue
        except OSError:
            return


def count_at(counter: socket.socket) -> Tuple[int, float]:
    """(bytes received there, the time there)."""
    counter.sendall(b"?")
    total, when = struct.unpack("!Qd", read_exactly(counter, 16))
    return total, when


def connect(address: str, port: int, token: str, what: bytes) -> socket.socket:
    """A connection to the other end's listener. Raises OSError or ValueError."""
    peer = socket.create_connection((address, port), CONNECT_S)
    try:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(token.encode() + b"\n")
        if read_line(peer) + b"\n" != HELLO:
            raise ValueError(f"another program answers on port {port}")
        peer.sendall(what + b"\n")
        peer.settimeout(QUIET_S)
        return peer
    except (OSError, ValueError):
        peer.close()
        raise


# ---------------------------------------------------------------- both


def read_line(peer: socket.socket) -> bytes:
    """A short line, without its end."""
    line = b""
    while len(line) < 200:
        byte = peer.recv(1)
        if byte in (b"", b"\n"):
            return line
        line += byte
    raise ValueError("a line that is too long")


def read_exactly(peer: socket.socket, count: int) -> bytes:
    """That many bytes."""
    got = b""
    while len(got) < count:
        more = peer.recv(count - len(got))
        if not more:
            raise ValueError("the connection was closed")
        got += more
    return got


def in_threads(work: Any, calls: List[Tuple[Any, ...]]) -> None:
    """All the calls at the same time."""
    threads = [threading.Thread(target=work, args=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """Answer requests until the input ends; the first is ``{"limit_s": 60}``."""
    verbs: Dict[str, Any] = {
        "listen": listen,
        "close": close,
        "reach": reach,
        "measure": measure,
    }
    signal.alarm(json.loads(sys.stdin.buffer.readline().decode())["limit_s"])
    lines: Any = queue.Queue()
    threading.Thread(target=receive, args=(lines,), daemon=True).start()
    while True:
        request = json.loads(lines.get().decode())
        answer = verbs[request.pop("do")](**request)
        sys.stdout.write("\n" + MARK + json.dumps(answer) + "\n")
        sys.stdout.flush()


def receive(lines: Any) -> None:
    """Take requests; where the input ends, whoever asked has gone: end at once."""
    while True:
        line = sys.stdin.buffer.readline()
        if not line:
            os._exit(0)
        lines.put(line)


if __name__ == "__main__":
    main()
