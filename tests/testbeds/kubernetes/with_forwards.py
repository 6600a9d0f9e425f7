#!/usr/bin/env python3
"""A ``kubectl`` before the real one that can forward ports, which the bed's API server cannot: a relay to the address
of the Service's first pod. Everything else is the real kubectl's, whose path is LEMNOS_BED_KUBECTL."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from typing import Any

REAL = os.environ["LEMNOS_BED_KUBECTL"]


def main() -> None:
    """Forward, or become the real one."""
    words = sys.argv[1:]
    if "port-forward" not in words:
        os.execv(REAL, [REAL, *words])
    at = words.index("port-forward")
    before, (target, ports) = words[:at], [w for w in words[at + 1 :] if not w.startswith("--")]  # fmt: skip
    service = asked(before, "get", target)
    chosen = ",".join(f"{k}={v}" for k, v in service["spec"]["selector"].items())
    local, _, remote = ports.partition(":")
    port = next(p for p in service["spec"]["ports"] if p["port"] == int(remote))
    pods = asked(before, "get", "pods", "--selector", chosen)["items"]
    if not pods:
        sys.exit(f"error: timed out waiting for the condition: no pod of {target}")
    ip = pods[0]["status"]["podIP"]
    number = port["targetPort"]
    if not isinstance(number, int):
        number = pods[0]["spec"]["containers"][0]["ports"][0]["containerPort"]
    with socket.create_server(("127.0.0.1", int(local))) as server:
        sys.stdout.write(f"Forwarding from 127.0.0.1:{local} -> {number}\n")
        while True:
            client, _ = server.accept()
            threading.Thread(target=relay, args=(client, ip, number), daemon=True).start()  # fmt: skip


def asked(before: list[str], *words: str) -> Any:
    """What the real one says."""
    done = subprocess.run([REAL, *before, *words, "-o", "json"], capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        sys.stderr.write(done.stderr)
        sys.exit(1)
    return json.loads(done.stdout)


def relay(client: socket.socket, ip: str, port: int) -> None:
    """Both ways, until one of them ends; a pod that is gone ends the whole, as the real one does."""
    try:
        pod = socket.create_connection((ip, port))
    except OSError:
        sys.stderr.write("error: lost connection to pod\n")
        sys.stderr.flush()
        os._exit(1)
    threading.Thread(target=pump, args=(pod, client), daemon=True).start()
    pump(client, pod)


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    for each in (source, target):
        try:
            each.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


if __name__ == "__main__":
    main()
