"""``python -m lemnos.deployments NAME``: the supervisor of NAME, detached from its caller.

``--foreground`` keeps it where it is, for systemd. Else it forks before anything heavy is imported: the caller waits for milliseconds, learns the
supervisor's pid from standard output, and the supervisor is nobody's child, so that nobody
has to reap it.
"""

import os
import sys


def main() -> None:
    """Fork, leave the caller's session, and supervise."""
    *flags, name = sys.argv[1:]
    if "--foreground" not in flags:
        _detach()
    from lemnos.deployments.supervisor import supervise
    from lemnos.errors import LemnosError

    try:
        supervise(name)
    except LemnosError as error:
        sys.exit(f"error: {error}")


def _detach() -> None:
    if pid := os.fork():
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        os._exit(0)
    os.setsid()
    os.dup2(2, 1)  # the log; the caller waits for the end of what it reads


if __name__ == "__main__":
    main()
