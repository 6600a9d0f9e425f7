"""The endpoint: admit, find the model, choose targets, relay, account."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import re
import time
from typing import TYPE_CHECKING, Any

import orjson

from lemnos.errors import near
from lemnos.gateway import auth, prompts
from lemnos.gateway.accounting import charge, entry_of
from lemnos.gateway.affinity import prompt_blocks, session_of
from lemnos.gateway.ask import API_OF, Ask, read_ask, speaks
from lemnos.gateway.desk import NotFoundError, Page, may_use, model_page, page
from lemnos.gateway.entry import Entry
from lemnos.gateway.exchange import Exchange, Headers
from lemnos.gateway.fleet import Fleet
from lemnos.gateway.limits import Limits
from lemnos.gateway.metrics import Metrics
from lemnos.gateway.relay import Relay
from lemnos.gateway.requestlog import RequestLog
from lemnos.gateway.routing import order
from lemnos.gateway.server import GOING
from lemnos.gateway.table import WatchedTable
from lemnos.gateway.trip import Trip
from lemnos.spec.targets import ClientKey, Route, Target
from lemnos.wire.errors import Protocol, error_body, protocol_of

if TYPE_CHECKING:  # its database's package takes long to load
    from lemnos.gateway.ledger import Ledger

NEED_NO_MODEL = frozenset(("/tokenize", "/detokenize"))
"""llama.cpp's form of these has no model: the only one is meant, where there is one."""
ANSWERS = re.compile(r"/v1/responses/([A-Za-z0-9_-]{1,200})(/cancel|/input_items)?")
ALLOWED = {None: ("GET", "DELETE"), "/cancel": ("POST",), "/input_items": ("GET",)}
"""Methods of an answer and of what is below it."""
MODELS = "/v1/models/"
MAX_HASHED = 4 * 1024 * 1024
"""Larger bodies (images) are routed by load alone."""
JSON: tuple[bytes, bytes] = (b"content-type", b"application/json")
RETRY_AFTER = (b"retry-after", b"2")
TIDY_S = 0.25


class RefusedError(Exception):
    """A request that is answered with an error of ours."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = headers or []


class Gateway:
    """The application; made once, in the event loop that serves it."""

    def __init__(
        self, table: WatchedTable, ledger: Ledger | None, log: RequestLog
    ) -> None:
        self._table = table
        self._ledger = ledger
        self._log = log
        self._fleet = Fleet()
        self._relay = Relay(self._fleet)
        self._limits = Limits()
        self._metrics = Metrics(lambda name: name in table.now.routes)
        self._fleet.show(self._metrics)
        self._own_uid = auth.own_uid()
        self._prefix = os.urandom(6).hex()
        self._numbers = itertools.count(1)
        self.draining = False
        self._table_changed()
        self._tasks = [
            asyncio.create_task(table.watch(self._table_changed)),
            asyncio.create_task(self._tidy()),
        ]

    def close(self) -> None:
        """Stop watching and close the connections to targets."""
        for task in self._tasks:
            task.cancel()
        self._relay.upstream.close()
        self._log.flush()

    async def __call__(self, exchange: Exchange) -> None:
        """Serve one HTTP request."""
        protocol = protocol_of(exchange.path, b"anthropic-version" in exchange.headers)
        try:
            key = None
            if (
                exchange.path != "/health"
            ):  # for whoever supervises; it tells numbers only
                key = self._admit(exchange)
            if exchange.path in API_OF and exchange.method == "POST":
                await self._relayed(exchange, protocol, key)
            elif found := ANSWERS.fullmatch(exchange.path):
                await self._about_an_answer(exchange, protocol, key, found)
            else:
                self._own(exchange, protocol, key)
        except RefusedError as no:
            self.refuse(exchange, no.status, no.message, no.code, no.param, no.headers)

    def refuse(
        self,
        exchange: Exchange,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        """An error in the form of the protocol that the client speaks."""
        protocol = protocol_of(exchange.path, b"anthropic-version" in exchange.headers)
        body = error_body(protocol, status, message, code=code, param=param)
        exchange.answer(status, [JSON, *(headers or [])], body)

    def turns_away(self, exchange: Exchange) -> tuple[int, str] | None:
        """Why whoever sends this may not use the endpoint at all; a large body is not read then."""
        try:
            self._admit(exchange)
        except RefusedError as no:
            return no.status, no.message
        return None

    def _admit(self, exchange: Exchange) -> ClientKey | None:
        keys = self._table.now.keys
        if keys:
            key = auth.key_of(exchange.headers, keys)
            if key is None:
                raise RefusedError(
                    401,
                    "an API key is needed: 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
                    code="invalid_api_key",
                )
            return key
        reason = auth.keyless_refusal(
            exchange.headers, exchange.peer_uid(), self._own_uid
        )
        if reason:
            raise RefusedError(403, reason)
        return None

    def _own(
        self, exchange: Exchange, protocol: Protocol, key: ClientKey | None
    ) -> None:
        """What the gateway answers itself."""
        path = exchange.path
        if path in API_OF:
            raise RefusedError(405, f"{path} takes POST", headers=[(b"allow", b"POST")])
        try:
            found = self._page(path, exchange, protocol, key)
        except NotFoundError:
            raise RefusedError(
                404, f"there is no {_shown(path)} here", code="unknown_url"
            ) from None
        if exchange.method not in ("GET", "HEAD"):
            raise RefusedError(
                405, f"{path} takes GET", headers=[(b"allow", b"GET, HEAD")]
            )
        exchange.answer(found.status, [(b"content-type", found.kind)], found.body)

    def _page(
        self, path: str, exchange: Exchange, protocol: Protocol, key: ClientKey | None
    ) -> Page:
        if path == "/metrics":
            accept = exchange.headers.get(b"accept", b"").decode("latin-1")
            kind, body = self._metrics.render(accept)
            return Page(200, body, kind.encode("latin-1"))
        if path.startswith(MODELS):
            route = self._find(path.removeprefix(MODELS), key)
            if not may_use(key, route):  # as if it were not there
                raise self._unknown(path.removeprefix(MODELS), key)
            return model_page(route, protocol)
        return page(path, self._table.now.table, protocol, self.draining, key)

    # --- requests for a model

    async def _relayed(
        self, exchange: Exchange, protocol: Protocol, key: ClientKey | None
    ) -> None:
        if self.draining:
            raise RefusedError(503, GOING, headers=[RETRY_AFTER])
        request = _parsed(exchange.body)
        route = self._route_of(exchange.path, request, key)
        ask = read_ask(
            exchange.path, exchange.query, protocol, route, request, exchange.body
        )
        trip = Trip(ask, exchange, key)
        await self._served(trip, self._targets(trip))

    async def _served(self, trip: Trip, targets: list[Target]) -> None:
        """Relay within the key's limits, and write down what became of it."""
        now = time.monotonic()  # a body may have taken a minute
        key = trip.key
        if key:
            self._admit_within_limits(trip, key, now)
            self._limits.started(key, now)
        self._fleet.retries.requested(now)
        try:
            await self._relay.to_first_that_answers(trip, targets)
        finally:
            entry = self._entry(trip, trip.exchange.status)
            if key:
                charged, cost = charge(trip, entry)
                self._limits.finished(key, charged, cost, time.monotonic())
            self._write_down(trip, entry)

    def _admit_within_limits(self, trip: Trip, key: ClientKey, now: float) -> None:
        refusal = self._limits.admit(key, trip.ask.route.model, now)
        if refusal is None:
            return
        headers = self._limits.headers(key, now)
        if refusal.retry_after_s is not None:
            seconds = max(1, math.ceil(refusal.retry_after_s))
            headers.append((b"retry-after", b"%d" % seconds))
        self._write_down(trip, self._entry(trip, refusal.status))
        raise RefusedError(
            refusal.status, refusal.message, code=refusal.code, headers=headers
        )

    def _targets(self, trip: Trip) -> list[Target]:
        """Whom to ask, first to last."""
        ask, key, route = trip.ask, trip.key, trip.ask.route
        refusals = [
            no
            for target in (*route.targets, *route.cloud)
            if ask.api == "embeddings"
            and (no := prompts.embedding_refusal(target.dimensions, ask.request))
        ]
        if refusals and len(refusals) == len(route.targets) + len(route.cloud):
            raise RefusedError(400, refusals[0], param="dimensions")
        drained = self._table.now.table.drained
        able = [t for t in route.targets if t.name not in drained and speaks(t, ask)]
        cloud = [t for t in route.cloud if t.name not in drained and speaks(t, ask)]
        if key is None or key.local_only:  # a keyless endpoint never spends money
            cloud = []
        if not able and not cloud:
            raise self._nobody(ask, drained)
        previous = ask.request.get("previous_response_id")
        if ask.api == "responses" and previous:
            return [self._owner(str(previous), [*able, *cloud], key)]
        if len(able) > 1 and len(ask.body) <= MAX_HASHED:
            able = self._by_affinity(trip, able)
        waits = route.policy == "local-within"
        seen = self._fleet.seen((*able, *cloud), time.monotonic(), waits)
        return order(route, able, cloud, seen)

    def _by_affinity(self, trip: Trip, able: list[Target]) -> list[Target]:
        """Replicas with the one first that has the prompt's beginning in its cache."""
        ask = trip.ask
        trip.blocks = prompt_blocks(ask.api, ask.request)
        trip.session = session_of(trip.exchange.headers, ask.request)
        affinity = self._fleet.affinity(ask.route.model)
        by_name = {target.name: target for target in able}
        names = affinity.order(
            list(by_name), self._fleet.in_flight, trip.blocks, trip.session
        )
        return [by_name[name] for name in names]

    def _nobody(self, ask: Ask, drained: tuple[str, ...]) -> RefusedError:
        route = ask.route
        if not route.targets and not route.cloud:
            why = f"'{route.model}' has no replica that is ready; `lemnos ps` says why"
            return RefusedError(503, why, headers=[RETRY_AFTER])
        if not route.targets and route.cloud:
            why = (
                f"'{route.model}' has no replica that is ready, and an endpoint without keys "
                "never spends money in a cloud"
            )
            return RefusedError(503, why, headers=[RETRY_AFTER])
        if any(target.name not in drained for target in route.targets):
            return RefusedError(
                501,
                f"no target of '{route.model}' serves {ask.path}",
                code="unknown_url",
            )
        why = f"all replicas of '{route.model}' are drained"
        return RefusedError(503, why, headers=[RETRY_AFTER])

    def _owner(
        self, answer_id: str, targets: list[Target], key: ClientKey | None
    ) -> Target:
        """The target that has an answer, which a single one is taken to have."""
        owner = self._fleet.owner_of(answer_id, key.name if key else None)
        found = next((target for target in targets if target.name == owner), None)
        if found:
            return found
        if len(targets) == 1 and not self._fleet.knows_answer(answer_id):
            return targets[0]
        raise RefusedError(
            400,
            f"Previous response with id '{_shown(answer_id)}' not found.",
            code="previous_response_not_found",
            param="previous_response_id",
        )

    async def _about_an_answer(
        self,
        exchange: Exchange,
        protocol: Protocol,
        key: ClientKey | None,
        found: re.Match[str],
    ) -> None:
        """``/v1/responses/ID``: asked of the target that has it."""
        if self.draining:
            raise RefusedError(503, GOING, headers=[RETRY_AFTER])
        allowed = ALLOWED[found[2]]
        if exchange.method not in allowed:
            raise RefusedError(
                405,
                f"{exchange.path} takes {' or '.join(allowed)}",
                headers=[(b"allow", ", ".join(allowed).encode())],
            )
        answer_id = found[1]
        owner = self._fleet.owner_of(answer_id, key.name if key else None)
        for route in self._table.now.table.routes:
            for target in (*route.targets, *route.cloud):
                if target.name == owner:
                    ask = Ask(
                        exchange.path, exchange.query, "responses", protocol, route,
                        route.model, {}, exchange.body, False, exchange.method,
                    )  # fmt: skip
                    await self._served(Trip(ask, exchange, key), [target])
                    return
        raise RefusedError(404, f"Response with id '{answer_id}' not found.")

    def _route_of(
        self, path: str, request: dict[str, Any], key: ClientKey | None
    ) -> Route:
        model = request.get("model")
        routes = self._table.now.table.routes
        if model is None and path in NEED_NO_MODEL and len(routes) == 1:
            return routes[0]
        if not isinstance(model, str) or not model:
            raise RefusedError(400, "say which 'model' you want", param="model")
        return self._find(model, key)

    def _find(self, model: str, key: ClientKey | None) -> Route:
        route = self._table.now.routes.get(model)
        if route is None:
            raise self._unknown(model, key)
        return route

    def _unknown(self, model: str, key: ClientKey | None) -> RefusedError:
        known = [
            n for n, route in self._table.now.routes.items() if may_use(key, route)
        ]
        hint = near(model, known) or f"There are: {', '.join(known) or 'none'}."
        return RefusedError(
            404,
            f"the model '{_shown(model)}' does not exist here. {hint}",
            code="model_not_found",
            param="model",
        )

    # --- afterwards

    def _entry(self, trip: Trip, status: int) -> Entry:
        return entry_of(trip, status, f"{self._prefix}{next(self._numbers):x}")

    def _write_down(self, trip: Trip, entry: Entry) -> None:
        """Off the hot path, but for a few microseconds."""
        self._metrics.observe(entry)
        if self._ledger:
            self._ledger.record(entry)
        self._log.write(entry, trip.ask.request)

    def _table_changed(self) -> None:
        table = self._table.now.table
        self._log.mode = table.log_requests
        names = [
            t.name for route in table.routes for t in (*route.targets, *route.cloud)
        ]
        self._fleet.keep_only(names, [route.model for route in table.routes])
        for key in self._limits.update(table.keys):
            if self._ledger:
                now = time.time()
                spent = self._ledger.spending(key.name, now - key.budget_days * 86400)
                ages = [(max(0.0, now - at), dollars) for at, dollars in spent]
                self._limits.seed(key, ages, time.monotonic())

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            self._relay.upstream.prune()
            self._log.flush()


def _shown(name: str) -> str:
    """A client's word as it may be repeated: short, and without control characters."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:100])


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RefusedError(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(request, dict):
        raise RefusedError(400, "the body is not a JSON object")
    return request
