"""Which GPUs of a box a unit is given, where several deployments share it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lemnos.errors import LemnosError
from lemnos.spec.facts import Gpu

BUSY = 0.1
"""A GPU of which others hold more than this share is taken: desktops and monitors hold less."""


def allowed(
    gpus: Sequence[Gpu], visible: str | None, wanted: Sequence[str]
) -> tuple[str, ...]:
    """The devices that may be used, as ``CUDA_VISIBLE_DEVICES`` is written.

    ``visible``: the caller's own CUDA_VISIBLE_DEVICES (None: not set), by index or UUID (MIG's too),
    which ends at the first word that names no device, as CUDA has it. ``wanted``: the spec's, among
    those. Raises LemnosError for a wanted one that is not visible.
    """
    seen = [str(gpu.index) for gpu in gpus]
    if visible is not None:
        seen = []
        for word in (part.strip() for part in visible.split(",")):
            if not word or (
                word.isdecimal() and int(word) not in {g.index for g in gpus}
            ):
                break
            if not word.isdecimal() and not word.startswith(("GPU-", "MIG-")):
                break
            seen.append(word)
    if not wanted:
        return tuple(seen)
    missing = [device for device in wanted if device not in seen]
    if missing:
        raise LemnosError(
            f"GPU {', '.join(missing)} is not among those of this process ({', '.join(seen) or 'none'})",
            where="local.devices",
            fix="change local.devices, or CUDA_VISIBLE_DEVICES",
        )
    return tuple(wanted)


def free(
    gpus: Sequence[Gpu], devices: Sequence[str], taken: Collection[str]
) -> tuple[str, ...]:
    """Those of ``devices`` that no unit of ours has (``taken``), and of which nobody holds much memory."""
    by_word = {str(gpu.index): gpu for gpu in gpus}
    return tuple(
        device
        for device in devices
        if device not in taken and not _held(by_word.get(device))
    )


def choose(
    gpus: Sequence[Gpu], devices: Sequence[str], taken: Collection[str], count: int
) -> tuple[str, ...]:
    """``count`` free devices, neighbours first. Raises LemnosError with who has the others."""
    open_ = free(gpus, devices, taken)
    if len(open_) >= count:
        return open_[:count]
    ours = [device for device in devices if device in taken]
    held = [d for d in devices if d not in open_ and d not in taken]
    parts = [f"{len(devices)} here"]
    if ours:
        parts.append(f"{len(ours)} serve other deployments")
    if held:
        parts.append(f"{len(held)} are held by other programs")
    raise LemnosError(
        f"{count} free GPUs are needed, and there are {len(open_)} ({', '.join(parts)})",
        fix="`lemnos ps` and `lemnos probe` show who has them; plan for fewer, or free some",
    )


def multicast(cpu_flags: Collection[str], nvls: str | None) -> bool:
    """Whether ranks may use NVLink's multicast: not on a virtual machine, whose GPUs share their fabric with
    others' (a program that uses it can put all of them out of service), nor where ``NCCL_NVLS_ENABLE``
    (``nvls``; None: not set) is 0."""
    return "hypervisor" not in cpu_flags and nvls != "0"


def _held(gpu: Gpu | None) -> bool:
    if gpu is None or not gpu.memory_bytes or gpu.free_bytes is None:
        return False
    return gpu.free_bytes < (1 - BUSY) * gpu.memory_bytes
