"""The routers of prefill/decode groups, as the gateway's children: which there are to be.

One whose command or key changes serves until its successor is ready, and then finishes what
it has.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from lemnos.gateway.table import TargetKeys, WatchedTable
from lemnos.spec.targets import Router

if TYPE_CHECKING:  # most gateways have no groups, and never load what runs them
    from lemnos.gateway.child import Child

POLL_S = 0.25
"""Between looks at the table and at the keys' files."""

log = logging.getLogger("lemnos.gateway.routers")


class Children:
    """Keeps the routers of the table running; made in the gateway's event loop."""

    def __init__(self, table: WatchedTable) -> None:
        self._table = table
        self._keys = TargetKeys()
        self._running: dict[str, Child] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._said: str = ""
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """End them all at once; the gateway has finished its requests."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for task in self._leaving:
            task.cancel()
        children = [one for child in self._running.values() for one in child.line()]
        await asyncio.gather(
            *self._leaving,
            *(child.kill() for child in children),
            return_exceptions=True,
        )

    async def _follow(self) -> None:
        while True:
            try:
                self._take_up()
            except Exception:  # the next change must still be seen
                log.exception("the routers could not be brought in line with the table")
            await asyncio.sleep(POLL_S)

    def _take_up(self) -> None:
        routers = {each.target: each for each in self._table.written.routers}
        for name in set(self._running) - set(routers):
            for child in self._running.pop(name).line():
                self._let_go(child)
            self._table.place(name, None)
        for name, router in routers.items():
            key = self._key(router)
            running = self._running.get(name)
            if key and not (running and (running.router, running.key) == (router, key)):
                self._running[name] = self._start(router, key, running)

    def _start(self, router: Router, key: str, before: Child | None) -> Child:
        from lemnos.gateway.child import Child

        if before and not before.ready:  # nothing would be lost with it
            unready, before = before, before.replaces
            unready.replaces = None
            self._let_go(unready)
        return Child(router, key, self._table, before, self._let_go)

    def _key(self, router: Router) -> str | None:
        """None where it is not there: what runs goes on."""
        targets = (
            each for route in self._table.written.routes for each in route.targets
        )
        target = next(each for each in targets if each.name == router.target)
        try:
            return self._keys.of(target)
        except OSError as error:
            said = f"{router.target}: its key cannot be read ({error.strerror})"
            if said != self._said:
                log.warning("%s", said)
            self._said = said
            return None

    def _let_go(self, child: Child) -> None:
        child.leaving = True
        task = asyncio.create_task(child.leave())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
