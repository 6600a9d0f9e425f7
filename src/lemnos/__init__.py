"""lemnos: a model, machines and a load in; one measured, supervised endpoint out.

``import lemnos`` is cheap: each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lemnos.api import (
        bench,
        deployment_spec,
        get_record,
        jobs,
        list_records,
        plan,
        ports,
        probe,
        rendered,
        rerun,
        up,
        write_cluster,
    )
    from lemnos.deployments.endpoint import Endpoint
    from lemnos.engines.environments.bundle import bundle_engine
    from lemnos.engines.environments.installing import check_engine, install_engine
    from lemnos.engines.environments.places import environments
    from lemnos.errors import LemnosError, UsageError
    from lemnos.life import (
        down,
        drift,
        endpoint,
        history,
        logs,
        restart,
        rollback,
        scale,
        status,
    )
    from lemnos.proposals import for_gpus, planned_spec, propose, save_spec
    from lemnos.queues.asking import queued_plans, queued_spec, room_for
    from lemnos.wire.client import AsyncClient, Client

_HOMES = {
    "lemnos.engines.environments.bundle": ("bundle_engine",),
    "lemnos.engines.environments.installing": ("check_engine", "install_engine"),
    "lemnos.engines.environments.places": ("environments",),
    "lemnos.errors": ("LemnosError", "UsageError"),
    "lemnos.proposals": ("for_gpus", "planned_spec", "propose", "save_spec"),
    "lemnos.queues.asking": ("queued_plans", "queued_spec", "room_for"),
    "lemnos.wire.client": ("AsyncClient", "Client"),
    "lemnos.deployments.endpoint": ("Endpoint",),
    "lemnos.life": (
        "down",
        "drift",
        "endpoint",
        "history",
        "logs",
        "restart",
        "rollback",
        "scale",
        "status",
    ),
    "lemnos.api": (
        "bench",
        "deployment_spec",
        "get_record",
        "jobs",
        "list_records",
        "plan",
        "ports",
        "probe",
        "rendered",
        "rerun",
        "up",
        "write_cluster",
    ),
}

__all__ = [
    "AsyncClient",
    "Client",
    "Endpoint",
    "LemnosError",
    "UsageError",
    "bench",
    "bundle_engine",
    "check_engine",
    "deployment_spec",
    "down",
    "drift",
    "endpoint",
    "environments",
    "for_gpus",
    "get_record",
    "history",
    "install_engine",
    "jobs",
    "list_records",
    "logs",
    "plan",
    "ports",
    "planned_spec",
    "probe",
    "propose",
    "queued_plans",
    "queued_spec",
    "rendered",
    "rerun",
    "restart",
    "rollback",
    "room_for",
    "save_spec",
    "scale",
    "status",
    "up",
    "write_cluster",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(home), name)
    raise AttributeError(f"module 'lemnos' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
