"""The supervisor as a service, and the target that starts all of a deployment at boot."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from lemnos.errors import LemnosError
from lemnos.launchers.site import Site
from lemnos.launchers.systemd.client import STOP_WAIT_S, Manager
from lemnos.launchers.systemd.environment import carried, environment_text
from lemnos.launchers.systemd.quoting import unit_file
from lemnos.launchers.systemd.render import (
    SYSTEM_UNITS,
    description_of,
    supervisor_of,
    systemctl,
    target_of,
)

ENVIRONMENT = "supervisor.env"


def files_of(site: Site, words: Sequence[str], host: str = "") -> dict[str, str]:
    """Service and target by name; ``words`` start the supervisor in the foreground, on ``host`` only
    (a user's home, where the units are, may be shared). Pure."""
    name, system = site.deployment, site.spec.systemd.scope == "system"
    target = target_of(name)
    service = unit_file(
        "systemd_supervisor.j2",
        deployment=name,
        description=description_of(name, "supervisor", site.owner),
        target=target,
        network=system,
        only_on=host,
        environment_file=f"{_directory(site)}/{ENVIRONMENT}",
        words=words,
        log=f"{site.directory}/supervisor.log",
        identifier=f"lemnos-{name}-supervisor",
        directory=site.directory,
    )
    grouped = unit_file(
        "systemd_target.j2",
        deployment=name,
        description=description_of(name, "all", site.owner),
        boot="multi-user.target" if system else "default.target",
    )
    return {supervisor_of(name): service, target: grouped}


def commands_of(site: Site) -> tuple[tuple[str, ...], ...]:
    """What installs and starts both. Pure."""
    names = (supervisor_of(site.deployment), target_of(site.deployment))
    paths = [f"{_directory(site)}/{name}" for name in names]
    control = systemctl(site.spec)
    system = site.spec.systemd.scope == "system"
    copy = ("install", "-m", "644", "-t", SYSTEM_UNITS, "--", *paths)
    return (
        *((copy,) if system else ()),
        (*control, "--quiet", "--force", "enable", *(names if system else paths)),
        (*control, "daemon-reload"),
        (*control, "start", *names),
    )


def install(site: Site, env: Mapping[str, str], words: Sequence[str] = ()) -> int:
    """Start the supervisor as a service, now and at each boot, unless it runs; its pid.

    ``env``: of which it is given what it needs. ``words``: what it is started with,
    ``python -m lemnos.deployments --foreground NAME`` by default. Raises LemnosError.
    """
    default = (sys.executable, "-m", "lemnos.deployments", "--foreground")
    manager = _manager(site)
    manager.check()
    started = words or (*default, site.deployment)
    for name, text in files_of(site, started, manager.host_name()).items():
        site.transport.write(f"{_directory(site)}/{name}", text.encode())
    kept = carried(env, site.spec) | {k: env[k] for k in ("PATH", "HOME") if k in env}
    path = f"{_directory(site)}/{ENVIRONMENT}"
    site.transport.write(path, environment_text(kept).encode())
    for command in commands_of(site):
        done = manager.run(*command)
        if done.code:
            remove(site)
            raise LemnosError(f"systemd does not start the supervisor: {done.said}")
    service = manager.show([supervisor_of(site.deployment)])
    return next((each.pid for each in service.values()), 0)


def remove(site: Site) -> None:
    """Stop the supervisor and remove it and the target; none there is no error."""
    manager = _manager(site)
    names = (supervisor_of(site.deployment), target_of(site.deployment))
    if not any(manager.listed(name) for name in names):
        return
    manager.control("stop", "--", *names, timeout_s=STOP_WAIT_S)
    manager.control("--quiet", "disable", "--", *names)
    if site.spec.systemd.scope == "system":
        for name in names:
            site.transport.remove(f"{SYSTEM_UNITS}/{name}")
    site.transport.remove(_directory(site))
    manager.control("daemon-reload")
    manager.control("reset-failed", "--", *names)


def _manager(site: Site) -> Manager:
    return Manager(site.transport, system=site.spec.systemd.scope == "system")


def _directory(site: Site) -> str:
    return f"{site.directory}/systemd"
