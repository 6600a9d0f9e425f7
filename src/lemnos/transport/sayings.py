"""What OpenSSH's client says when it fails, in words that help. Pure."""

from __future__ import annotations

from lemnos.errors import LemnosError

# What it says -> (what happened, what to do). The first that matches.
_SAYINGS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "the host's key has changed",
        "ask its administrator whether that is right; then 'ssh-keygen -R {host}'",
    ),
    (
        "Host key verification failed",
        "the host's key is not known here",
        "connect once by hand and compare the fingerprint: ssh {host}",
    ),
    (
        "Permission denied (keyboard-interactive",
        "the host asks for more than a key",
        "give it a ControlPath in ~/.ssh/config and connect once by hand: ssh {host}",
    ),
    (
        "Permission denied",
        "the host does not let you in",
        "try 'ssh {host}': a key in the agent or an IdentityFile is needed",
    ),
    (
        "Too many authentication failures",
        "the host does not let you in: it was offered too many keys",
        "name the right one with IdentityFile and IdentitiesOnly in ~/.ssh/config",
    ),
    (
        "Could not resolve hostname",
        "no such host",
        "check the name, or add it to ~/.ssh/config",
    ),
    ("Connection refused", "nothing listens for SSH there", "is sshd running there?"),
    ("timed out", "the host does not answer", "check the network and the name"),
    ("not responding", "the host does not answer any more", "check the network"),
    ("No route to host", "the host cannot be reached", "check the network"),
    ("Network is unreachable", "the host cannot be reached", "check the network"),
    (
        "Bad owner or permissions",
        "ssh refuses your configuration: others may write it",
        "chmod go-w ~/.ssh/config",
    ),
    (
        "Could not request local forwarding",
        "a port of a forward is taken here",
        "take LocalForward out of the host's part of ~/.ssh/config",
    ),
    (
        "administratively prohibited",
        "the host forbids forwards",
        "ask its administrator for AllowTcpForwarding, or run lemnos on it",
    ),
    (
        "Connection closed",
        "the host closed the connection",
        "try 'ssh {host}'; too many connections at once are refused, too",
    ),
    ("Connection reset", "the host closed the connection", "try 'ssh {host}'"),
    ("Broken pipe", "the connection broke", "check the network"),
)


def problem(host: str, code: int, said: str) -> LemnosError:
    """What ``ssh``'s exit code and words on standard error mean."""
    if code == 255:  # ssh's own; other codes are the remote command's
        for mark, what, fix in _SAYINGS:
            if mark in said:
                return LemnosError(what, where=host, fix=fix.format(host=host))
    words = " ".join(said.split())[-400:] or "no message"
    if code == 255:
        return LemnosError(f"ssh fails: {words}", where=host, fix=f"try 'ssh {host}'")
    return LemnosError(f"a command ended with exit code {code}: {words}", where=host)
