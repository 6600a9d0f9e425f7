"""Waits until a port answers: ``python ready.py HOST PORT http|tcp``. Runs alone, beside the units.

systemd runs it after a service was started (so that ``active`` means that it answers) and before
one that needs another host's. How long it may take is the unit's TimeoutStartSec. It leaves
with 1 as soon as the service's process, which systemd names in MAINPID, is gone.
"""

import http.client
import os
import socket
import sys
import time

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
PAUSE_S = 0.2
ANSWER_S = 5.0


def main(host: str, port: int, how: str) -> int:
    """0 as soon as it answers, 1 when it never will."""
    while not answers(host, port, how):
        if not runs(os.environ.get("MAINPID", "")):
            return 1
        time.sleep(PAUSE_S)
    return 0


def answers(host: str, port: int, how: str) -> bool:
    """Engines say 503 while they load; any other answer of theirs will do, a refusal without key too."""
    try:
        if how == "tcp":
            socket.create_connection((host, port), ANSWER_S).close()
            return True
        asked = http.client.HTTPConnection(host, port, timeout=ANSWER_S)
        try:
            asked.request("GET", "/health")
            return asked.getresponse().status < 500
        finally:
            asked.close()
    except (OSError, http.client.HTTPException):
        return False


def runs(pid: str) -> bool:
    """Whether the process is there; True where none is named."""
    if not pid:
        return True
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


if __name__ == "__main__":
    host, port, how = sys.argv[1:]
    sys.exit(main(EVERYWHERE.get(host, host), int(port), how))
