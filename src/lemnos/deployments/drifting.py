"""What others have changed of a deployment where it runs."""

from __future__ import annotations

from lemnos.deployments.status import state_of, unknown
from lemnos.deployments.units import launcher_of, unit_of
from lemnos.errors import UsageError
from lemnos.launchers.base import Declaring
from lemnos.records.store import Store


def drift_of(name: str) -> dict[str, str]:
    """replica -> what its room has otherwise than lemnos would leave it, as a diff; none that are as they were
    declared. Raises UsageError where the room has no owner that could be asked, LemnosError where it
    does not answer."""
    store = Store()
    row = store.deployment(name)
    if row is None:
        raise unknown(name)
    state, found = state_of(row), {}
    for job in state.jobs if state else ():
        if not job.revision:
            continue
        plan, _ = store.revision_plan(name, job.revision)
        launcher = launcher_of(plan)
        if not isinstance(launcher, Declaring):
            raise UsageError(
                f"'{name}' runs on {launcher.name}, where nobody but lemnos changes it",
                fix="drift is shown of deployments on kubernetes",
            )
        place = launcher.place(plan, job.name)
        unit = unit_of(plan, job.name, job.revision, place, launcher.files(job.name))
        if diff := launcher.drift(unit):
            found[job.name] = diff
    return found
