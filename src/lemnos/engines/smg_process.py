"""Becomes smg, in its own environment's Python: the standard library of 3.9, nothing of lemnos.

Reads one JSON object from standard input: ``arguments``, ``key``, and ``parent``, the gateway's
process. The key is in no argv and no environment of any process.
"""

import ctypes
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until the gateway ends, in whatever way."""
    order = json.load(sys.stdin)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != order["parent"]:  # it ended before the line above
        return
    from smg.cli import main as smg  # type: ignore[import-not-found]

    sys.argv = ["smg", *order["arguments"]]
    smg([*order["arguments"], f"--api-key={order['key']}"])  # a key may begin with '-'


if __name__ == "__main__":
    main()
