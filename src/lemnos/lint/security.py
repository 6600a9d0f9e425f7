"""Who can reach the engine, and settings whose cost was measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from lemnos.lint.command import Command, inserted, of_use, removed, rewritten
from lemnos.lint.findings import Finding

EVERYWHERE = ("0.0.0.0", "::", "*", "[::]", "")
OPEN_BY_DEFAULT = ("vllm", "dynamo.frontend")
"""What listens on every interface where no --host is given. SGLang takes 127.0.0.1."""
LOOPBACK = "127.0.0.1"

EAGER = (
    "measured on one H200 with GLM-4.5-Air-FP8: 14.1 tokens/s for one stream against 128.4 with "
    "CUDA graphs; what it saves is about a minute, once: the compile cache makes the next start cheap"
)
_WHY_OPEN = (
    "whoever reaches the port can use the model, and --api-key would protect some paths only: "
    "put a gateway with keys before an engine on loopback"
)


_ADVICE = (
    f"--host {LOOPBACK} with a gateway that has keys on the same node: requests beside this "
    "come from other machines"
)


def security_findings(command: Command, reached: bool = False) -> Iterator[Finding]:
    """Open ports, and keys that every user of the machine can read.

    ``reached``: a request beside the command comes from another machine, so that loopback alone
    would not do.
    """
    key = command.use("--api-key")
    if key and key.value and key.value.known and key.value.text:
        yield of_use(
            command,
            "key-in-argv",
            key,
            f"the key after {key.name} is on the command line, where every user can read it",
            "process lists and shell histories show it",
            _key_elsewhere(command),
            (),
        )
    if key is None and "VLLM_API_KEY" not in command.found.env:
        yield from _open(command, reached)


def speed_findings(command: Command) -> Iterator[Finding]:
    """Settings that cost speed, by measurements."""
    use = command.use("--enforce-eager", "--disable-cuda-graph")
    if use and not use.negated:
        yield of_use(
            command,
            "slow",
            use,
            f"{use.name} gives up CUDA graphs: about nine times slower for one stream",
            EAGER,
            "leave it out",
            removed(command, use.index, use.stop),
        )


def _open(command: Command, reached: bool) -> Iterator[Finding]:
    if command.schema.engine in ("dynamo.vllm", "dynamo.sglang"):
        return  # a worker is asked by the frontend, over its own transport
    if _in_container(command) or command.has("--headless"):
        return  # inside, 0.0.0.0 is right: what is published decides
    use = command.use("--host", "--http-host")
    if use is None:
        if command.schema.engine not in OPEN_BY_DEFAULT or command.open_ended():
            return
        if command.use("--uds") or not command.option("--host"):
            return
        yield Finding(
            "open-to-all",
            command.start,
            command.end,
            f"without --host {command.engine} listens on every interface, and there is no key",
            _WHY_OPEN,
            _ADVICE if reached else f"add --host {LOOPBACK}",
            () if reached else inserted(command, ["--host", LOOPBACK]),
            command.number,
        )
    elif use.value and use.value.known and use.value.text in EVERYWHERE:
        yield of_use(
            command,
            "open-to-all",
            use,
            f"{use.name} {use.value.text} listens on every interface, and there is no key",
            _WHY_OPEN,
            _ADVICE if reached else f"write {LOOPBACK}",
            () if reached else rewritten(use.value, LOOPBACK),
        )


def _in_container(command: Command) -> bool:
    heads = [word.text.rpartition("/")[2] for word in command.found.around[:2]]
    runs = "docker" in heads or "podman" in heads
    return command.found.contained or runs


def _key_elsewhere(command: Command) -> str:
    if command.engine == "vllm":
        return "export VLLM_API_KEY from a file that only its owner reads"
    return "read it from a file in the engine's --config"
