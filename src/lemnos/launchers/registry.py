"""Launchers by the word after ``--on``: lemnos' own, and those that other packages add.

A package adds one by an entry point of the group ``lemnos.launchers``: a name, and a callable that
makes the launcher from a ``Site``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from lemnos.errors import LemnosError, UsageError, near
from lemnos.launchers.base import Launcher
from lemnos.launchers.site import Site

GROUP = "lemnos.launchers"

# Modules, not classes: a verb that needs one launcher does not import the others.
_OWN = {
    "local": "lemnos.launchers.local:Local",
    "systemd": "lemnos.launchers.systemd.launcher:Systemd",
    "slurm": "lemnos.launchers.slurm.launcher:Slurm",
    "pbs": "lemnos.launchers.pbs.launcher:Pbs",
    "kubernetes": "lemnos.launchers.kubernetes.launcher:Kubernetes",
    "ray": "lemnos.launchers.ray.launcher:Ray",
}


def launcher_for(site: Site) -> Launcher:
    """The launcher that the site's spec names after ``on``. Raises UsageError for an unknown one."""
    return maker(site.spec.on)(site)


def maker(name: str) -> Callable[[Site], Launcher]:
    """What makes the launcher called ``name``. Raises UsageError for an unknown one, LemnosError for
    one of another package that cannot be imported."""
    if own := _OWN.get(name):
        module, _, attribute = own.partition(":")
        made: Callable[[Site], Launcher] = getattr(
            importlib.import_module(module), attribute
        )
        return made
    for point in entry_points(group=GROUP):
        if point.name == name:
            return _loaded(point)
    known = names()
    raise UsageError(
        f"unknown launcher '{name}'",
        where="on",
        fix=near(name, known) or f"known: {', '.join(known)}",
    )


def names() -> list[str]:
    """Every word that may stand after ``--on``."""
    added = {point.name for point in entry_points(group=GROUP)}
    return [*_OWN, *sorted(added - _OWN.keys())]


def _loaded(point: EntryPoint) -> Callable[[Site], Launcher]:
    try:
        made: Callable[[Site], Launcher] = point.load()
    except (
        Exception
    ) as error:  # another's code: whatever it does, it is said in one sentence
        raise LemnosError(
            f"the launcher '{point.name}' cannot be loaded ({type(error).__name__}: {error})",
            where=point.value,
            fix="update or remove the package that adds it",
        ) from None
    return made
