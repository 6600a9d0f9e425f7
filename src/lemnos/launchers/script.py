"""A job as a shell script, and its keys on their way into the process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lemnos.errors import LemnosError
from lemnos.launchers.late import quoted
from lemnos.paths import replace_file
from lemnos.spec.plan import Job, Secret


def script_of(job: Job) -> str:
    """What ``sh`` would run; keys are read from their files as it starts. Pure."""
    return "#!/bin/sh\n" + body_of(job)


def body_of(job: Job) -> str:
    """Its lines without the first: the environment, the keys, and the command, which replaces the shell.

    Late values (``launchers.late``) are variables that must be set before.
    """
    lines = [f"export {key}={quoted(value)}" for key, value in job.command.env.items()]
    lines += [_read_by_shell(secret) for secret in job.command.secrets]
    return "\n".join([*lines, f"exec {_flags_on_lines(job.command.argv)}", ""])


def _flags_on_lines(argv: Sequence[str]) -> str:
    """The command, each flag with its values on a line of its own."""
    lines: list[list[str]] = [[]]
    for word in argv:
        if word.startswith("--"):
            lines.append([])
        lines[-1].append(quoted(word))
    return " \\\n  ".join(" ".join(line) for line in lines if line)


def hand_over(secrets: Sequence[Secret]) -> dict[str, str]:
    """Variables for the process; files among the secrets are written, for their owner only.

    Raises LemnosError where a key cannot be read or its file cannot be written.
    """
    env = {}
    for secret in secrets:
        try:
            key = Path(secret.key_file).read_text(encoding="utf-8").strip()
            if secret.file:
                text = secret.text.replace("{key}", key)
                replace_file(Path(secret.file), text.encode(), mode=0o600)
        except OSError as error:
            raise LemnosError(
                f"the engine's key cannot be handed over ({error.strerror})",
                where=secret.key_file,
            ) from None
        if secret.env:
            env[secret.env] = key
    return env


def _read_by_shell(secret: Secret) -> str:
    """An engine never starts without its key: it would let everybody in."""
    read = f'"$(cat {quoted(secret.key_file)})"'
    if secret.env:
        return f"{secret.env}={read} || exit 1\nexport {secret.env}"
    assert secret.file is not None
    before, _, after = secret.text.partition("{key}")
    return (
        f"(umask 077; key={read} && {{ printf %s {quoted(before)}; "
        f'printf %s "$key"; printf %s {quoted(after)}; }} > {quoted(secret.file)}) || exit 1'
    )
