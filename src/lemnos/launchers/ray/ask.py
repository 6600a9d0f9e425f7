"""What a host says of itself before Ray is started on it; run there by the Python that has Ray, as text.

Its one argument is JSON: ``ways``, addresses and ports that it must reach, ``own``, ports that must be free.
A port on which nothing listens yet is reached if the host itself says so (connection refused).
"""

import importlib
import importlib.util
import json
import os
import platform
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

REACH_S = 3.0


def blocked(way: list) -> str:  # type: ignore[type-arg]  # Python 3.8 runs it, too
    try:
        socket.create_connection((way[0], way[1]), REACH_S).close()
    except ConnectionRefusedError:
        return ""
    except OSError as error:
        return error.strerror or str(error)
    return ""


def is_taken(port: int) -> bool:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def ray_version() -> str:
    try:
        return str(importlib.import_module("ray").__version__)
    except ImportError:
        return ""


def main() -> None:
    asked = json.loads(sys.argv[1])
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(blocked, asked["ways"]))
    said = {
        "python": platform.python_version(),
        "ray": ray_version(),
        "dashboard": importlib.util.find_spec("aiohttp") is not None,
        "cpus": os.cpu_count() or 1,
        "blocked": [[*w, why] for w, why in zip(asked["ways"], answers) if why],  # noqa: B905
        "taken": [port for port in asked["own"] if is_taken(port)],
    }
    sys.stdout.write("LEMNOS " + json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
