"""Layouts: how one model is divided over GPUs; and what was not taken, and why."""

from __future__ import annotations

from lemnos.spec.base import Value


class Layout(Value):
    """Parallelism and replicas. TP, PP and DP of one replica; one embedded engine is 1, 1, 1."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: bool = False
    """MoE layers give each rank whole experts (over TP x DP) instead of slices of all."""
    context: int = 1
    """Decode context parallelism (DCP): ranks that share the KV cache of replicated heads."""
    replicas: int = 1

    @property
    def gpus(self) -> int:
        """Of one replica."""
        return self.tensor * self.pipeline * self.data

    def __str__(self) -> str:
        parts = [f"TP{self.tensor}"]
        parts += [f"PP{self.pipeline}"] if self.pipeline > 1 else []
        parts += [f"DP{self.data}"] if self.data > 1 else []
        parts += ["EP"] if self.expert else []
        parts += [f"DCP{self.context}"] if self.context > 1 else []
        text = " ".join(parts)
        return f"{self.replicas} x {text}" if self.replicas > 1 else text


class Rejection(Value):
    """An alternative that was not taken, and why, in one sentence."""

    option: str
    reason: str
