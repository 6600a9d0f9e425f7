"""The endpoint as an ASGI application: admit, find the model, relay."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from lemnos.errors import near
from lemnos.gateway import auth
from lemnos.gateway.relay import Headers, Relay, Send, answer
from lemnos.gateway.routing import order, route_for
from lemnos.gateway.table import WatchedTable
from lemnos.spec.targets import Route
from lemnos.wire.errors import Protocol, error_body, protocol_of

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]

RELAYED = frozenset(
    (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/responses",
        "/tokenize",
        "/detokenize",
    )
)
NEED_NO_MODEL = frozenset(("/tokenize", "/detokenize"))
"""llama.cpp's form of these has no model: the only one is meant, where there is one."""

MAX_BODY = 64 * 1024 * 1024
RETRY_AFTER = (b"retry-after", b"2")


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
        self.headers = headers


class Gateway:
    """The application; made once, in the event loop that serves it."""

    def __init__(self, table: WatchedTable) -> None:
        self._table = table
        self._relay = Relay()
        self._watcher = asyncio.create_task(table.watch())
        self._own_uid = auth.own_uid()
        self.draining = False

    async def close(self) -> None:
        """Stop watching and close the connections to targets."""
        self._watcher.cancel()
        await self._relay.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        path, method = scope["path"], scope["method"]
        headers = dict(scope["headers"])
        protocol = protocol_of(path, b"anthropic-version" in headers)
        try:
            if path != "/health":  # for whoever supervises; it tells numbers only
                self._admit(headers, scope["lemnos.peer_uid"])
            if path in RELAYED and method == "POST":
                await self._relayed(path, scope, headers, protocol, receive, send)
                return
            await self._own(path, method, protocol, send)
        except RefusedError as no:
            body = error_body(
                protocol, no.status, no.message, code=no.code, param=no.param
            )
            await answer(send, no.status, body, headers=no.headers)

    def _admit(self, headers: dict[bytes, bytes], peer_uid: auth.PeerUid) -> None:
        digests = self._table.now.key_digests
        if digests:
            if not auth.has_key(headers, digests):
                raise RefusedError(
                    401,
                    "an API key is needed: 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
                    code="invalid_api_key",
                )
            return
        if reason := auth.keyless_refusal(headers, peer_uid(), self._own_uid):
            raise RefusedError(403, reason)

    async def _own(
        self, path: str, method: str, protocol: Protocol, send: Send
    ) -> None:
        """What the gateway answers itself."""
        if path in RELAYED:
            raise RefusedError(405, f"{path} takes POST", headers=[(b"allow", b"POST")])
        routes = self._table.now.routes
        if path == "/health":
            ready = sum(bool(route.targets) for route in routes)
            status = "draining" if self.draining else "ok"
            body: Any = {"status": status, "models": len(routes), "ready": ready}
        elif path == "/v1/models":
            body = model_list(routes, protocol)
        elif path.startswith("/v1/models/"):
            body = model_card(self._find(path.removeprefix("/v1/models/")), protocol)
        elif path == "/":
            body = {
                "lemnos": "an OpenAI- and Anthropic-compatible endpoint",
                "try": "/v1/models",
            }
        else:
            raise RefusedError(404, f"there is no {path} here", code="unknown_url")
        if method not in ("GET", "HEAD"):
            raise RefusedError(
                405, f"{path} takes GET", headers=[(b"allow", b"GET, HEAD")]
            )
        await answer(
            send,
            503 if path == "/health" and self.draining else 200,
            orjson.dumps(body),
        )

    async def _relayed(
        self,
        path: str,
        scope: Scope,
        headers: dict[bytes, bytes],
        protocol: Protocol,
        receive: Receive,
        send: Send,
    ) -> None:
        body = await _read_body(headers, receive)
        if body is None:
            return
        route = self._route_of(path, body)
        if not route.targets:
            raise RefusedError(
                503,
                f"'{route.model}' has no replica that is ready; `lemnos ps` says why",
                headers=[RETRY_AFTER],
            )
        query = scope["query_string"].decode("latin-1")
        targets = order(route, self._relay.in_flight)
        work = self._relay.to_first_that_answers(
            targets,
            f"{path}?{query}" if query else path,
            scope["headers"],
            body,
            protocol,
            send,
        )
        await _while_connected(work, receive)

    def _route_of(self, path: str, body: bytes) -> Route:
        try:
            request = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise RefusedError(400, f"the body is not valid JSON: {error}") from None
        if not isinstance(request, dict):
            raise RefusedError(400, "the body is not a JSON object")
        model = request.get("model")
        routes = self._table.now.routes
        if model is None and path in NEED_NO_MODEL and len(routes) == 1:
            return routes[0]
        if not isinstance(model, str) or not model:
            raise RefusedError(400, "say which 'model' you want", param="model")
        return self._find(model)

    def _find(self, model: str) -> Route:
        route = route_for(self._table.now, model)
        if route is not None:
            return route
        known = [route.model for route in self._table.now.routes]
        hint = near(model, known) or f"There are: {', '.join(known) or 'none'}."
        raise RefusedError(
            404,
            f"the model '{model[:100]}' does not exist here. {hint}",
            code="model_not_found",
            param="model",
        )


def model_list(routes: tuple[Route, ...], protocol: Protocol) -> dict[str, Any]:
    """``GET /v1/models`` in the client's protocol."""
    cards = [model_card(route, protocol) for route in routes]
    if protocol == "openai":
        return {"object": "list", "data": cards}
    first, last = (routes[0].model, routes[-1].model) if routes else (None, None)
    return {"data": cards, "has_more": False, "first_id": first, "last_id": last}


def model_card(route: Route, protocol: Protocol) -> dict[str, Any]:
    """One model in the client's protocol."""
    if protocol == "anthropic":
        from datetime import UTC, datetime

        created = datetime.fromtimestamp(route.created, UTC).isoformat()
        return {
            "type": "model",
            "id": route.model,
            "display_name": route.model,
            "created_at": created.replace("+00:00", "Z"),
        }
    card = {
        "id": route.model,
        "object": "model",
        "created": route.created,
        "owned_by": "lemnos",
    }
    return card | ({"max_model_len": route.context} if route.context else {})


async def _read_body(headers: dict[bytes, bytes], receive: Receive) -> bytes | None:
    """The whole body; None when the client went away before its end."""
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced) > MAX_BODY:
        raise RefusedError(413, f"the body is over {MAX_BODY} bytes")
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY:
            raise RefusedError(413, f"the body is over {MAX_BODY} bytes")
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


async def _while_connected(work: Awaitable[None], receive: Receive) -> None:
    """Do ``work``, and drop it at once when the client hangs up.

    Dropping it closes the connection to the target, which ends the engine's work too.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        if not gone.done() or gone.cancelled():
            raise


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
