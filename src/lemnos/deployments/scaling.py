"""How many replicas the queue asks for. Pure."""

from __future__ import annotations

from lemnos.deployments.rollout import positions
from lemnos.deployments.state import Effect, Note, Observed, State
from lemnos.spec.rooms import ScaleSpec


def scale(
    state: State, seen: Observed, spec: ScaleSpec | None, effects: list[Effect]
) -> State:
    """One replica more when too much has waited for long enough, one less when nothing has.

    Decided while the deployment serves and nothing is on trial; a replica that is starting is
    waited for, because what waits may be for it.
    """
    if spec is None:
        return state.model_copy(update={"scaled": 0}) if state.scaled else state
    now = seen.now
    have = state.scaled or seen.replicas.get(state.revision, 1)
    have = min(max(have, spec.min), spec.max)
    if not state.revision or state.trial or seen.waiting is None:
        return state.model_copy(update={"scaled": have})
    here = positions(state, state.revision)
    starting = any(job.status != "ready" for job in here)
    pressed = seen.waiting >= spec.queue * max(1, len(here))
    pressed_since = (state.pressed_since or now) if pressed else 0.0
    idle_since = 0.0 if seen.waiting else (state.idle_since or now)
    state = state.model_copy(
        update={
            "scaled": have,
            "pressed_since": pressed_since,
            "idle_since": idle_since,
        }
    )
    if (
        pressed
        and not starting
        and have < spec.max
        and now - pressed_since >= spec.up_after_s
    ):
        effects.append(
            Note(text=f"{seen.waiting:.0f} requests wait: {have + 1} replicas")
        )
        return state.model_copy(update={"scaled": have + 1, "pressed_since": 0.0})
    if idle_since and have > spec.min and now - idle_since >= spec.down_after_s:
        effects.append(
            Note(
                text=f"nothing has waited for {spec.down_after_s:.0f} s: {have - 1} replicas"
            )
        )
        return state.model_copy(update={"scaled": have - 1, "idle_since": 0.0})
    return state
