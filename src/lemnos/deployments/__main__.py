"""``python -m lemnos.deployments NAME``: the supervisor of NAME, detached from its caller.

It forks before anything heavy is imported: the caller waits for milliseconds, and the
supervisor is nobody's child, so that nobody has to reap it.
"""

import os
import sys


def main() -> None:
    """Fork, leave the caller's session, and supervise."""
    if os.fork():
        os._exit(0)
    os.setsid()
    from lemnos.deployments.supervisor import supervise
    from lemnos.errors import LemnosError

    try:
        supervise(sys.argv[1])
    except LemnosError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
