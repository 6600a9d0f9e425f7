"""One request to the first target that answers, byte for byte, and what happens when that breaks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lemnos.errors import UsageError
from lemnos.gateway.answers import (
    MalformedError,
    downstream_headers,
    error_from,
    request_bytes,
    stream_translator,
    whole_answer,
)
from lemnos.gateway.ask import Ask, Sent, prepare
from lemnos.gateway.breaker import MISCONFIGURED, classify, retry_after_s
from lemnos.gateway.exchange import Headers
from lemnos.gateway.fleet import Fleet
from lemnos.gateway.origin import UpstreamError, origin_of
from lemnos.gateway.routing import first_byte_s
from lemnos.gateway.table import TargetKeys
from lemnos.gateway.trip import Trip
from lemnos.gateway.upstream import Answer, Patience, Upstream
from lemnos.spec.targets import Target
from lemnos.wire.errors import error_body, error_event
from lemnos.wire.usage import EndlessEventError, StreamMeter


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a target did not serve a request, and what the client reads if no other does."""

    status: int
    message: str
    body: bytes = b""
    """The target's own words, in the client's protocol; ours where empty."""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class _RefusedError(Exception):
    """A target answered, and another one is to be tried."""

    def __init__(self, problem: Problem, outcome: str, wait_s: float | None) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.outcome = outcome
        self.wait_s = wait_s


UNSENDABLE = "its key, or a header of its own, has letters that no header can hold"
FAILURES = (UpstreamError, OSError, EndlessEventError, MalformedError)


class Relay:
    """Sends requests to targets and answers back to clients."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._keys = TargetKeys()
        self.upstream = Upstream()

    async def to_first_that_answers(
        self, trip: Trip, targets: Sequence[Target]
    ) -> None:
        """Try targets in their order until one answers; an error when none does.

        The same request goes to the next target as long as no byte went to the client.
        """
        problems: list[tuple[Target, Problem]] = []
        for at, target in enumerate(targets):
            if at and not self._fleet.retries.take(time.monotonic()):
                break
            trip.target = target
            wait = first_byte_s(trip.ask.route, targets, at, trip.ask.streamed)
            patience = Patience(target.connect_s, wait, target.idle_s)
            try:
                sent = prepare(trip.ask, target)
            except UsageError as error:
                problems.append((target, Problem(400, error.what)))
                continue
            problem = await self._try(trip, sent, target, patience)
            if problem is None:
                return
            problems.append((target, problem))
        _give_up(trip, problems)

    async def _try(
        self, trip: Trip, sent: Sent, target: Target, patience: Patience
    ) -> Problem | None:
        """None when the client has its answer, be it one that broke off."""
        ask, exchange, fleet, name = trip.ask, trip.exchange, self._fleet, target.name
        breaker, request, now = fleet.breaker(name), id(trip), time.monotonic()
        fleet.in_flight[name] += 1
        breaker.started(now)
        if trip.blocks is not None and target.kind == "replica":
            fleet.affinity(ask.route.model).remember(name, trip.blocks, trip.session)
        if ask.streamed:
            fleet.wait(name).began(request, now)
        answer: Answer | None = None
        outcome, wait_s = "abandoned", None
        try:
            answer = await self._send(trip, sent, target, patience)
            if answer.status >= 300:
                _check(ask, sent, target, answer, await answer.whole())
            exchange.source = answer
            if answer.header(b"content-type").startswith(b"text/event-stream"):
                await self._stream(trip, sent, target, answer)
            else:
                await self._whole(trip, sent, target, answer)
            outcome = "failed" if trip.broke_off else "ok"
            trip.answered = True
            return None
        except _RefusedError as refused:
            outcome, wait_s = refused.outcome, refused.wait_s
            return refused.problem
        except FAILURES as error:
            outcome = "failed"
            why = getattr(error, "strerror", None) or str(error)
            return Problem(502, why or type(error).__name__)
        finally:
            exchange.source = None
            if answer:
                answer.abort()
            fleet.in_flight[name] -= 1
            if ask.streamed:
                fleet.wait(name).ended(request)
            _tell(fleet, name, outcome, wait_s)

    async def _send(
        self, trip: Trip, sent: Sent, target: Target, patience: Patience
    ) -> Answer:
        """The head of an answer. A target that hangs up without a word is asked once more over
        a new connection: it may have closed an idle one when that was used again."""
        origin, prefix = origin_of(target.base_url)
        try:
            request = request_bytes(
                trip.ask.method,
                prefix + _rooted(sent.path, target.root),
                origin.authority,
                trip.exchange.raw_headers,
                target,
                self._keys.of(target),
                sent,
            )
        except ValueError:  # it is a secret: nothing of it is told
            raise UpstreamError(UNSENDABLE) from None
        trip.attempts += 1
        try:
            return await self.upstream.send(origin, request, patience)
        except UpstreamError as error:
            if not error.hung_up:
                raise
        trip.attempts += 1
        return await self.upstream.send(origin, request, patience, fresh=True)

    async def _whole(
        self, trip: Trip, sent: Sent, target: Target, answer: Answer
    ) -> None:
        """Read whole before the first byte goes out: while it is not, another can answer."""
        rewritten = whole_answer(trip.ask, sent, answer.status, await answer.whole())
        trip.usage = rewritten.usage
        if rewritten.response_id:
            self._fleet.remember_answer(rewritten.response_id, target.name, trip.whose)
        headers = downstream_headers(answer.headers, target.name)
        trip.exchange.answer(answer.status, headers, rewritten.body)

    async def _stream(
        self, trip: Trip, sent: Sent, target: Target, answer: Answer
    ) -> None:
        """Whole events as they come. A stream that breaks after its first byte ends with an
        error event in the client's protocol; before that, another target can still answer."""
        ask, exchange = trip.ask, trip.exchange
        meter = StreamMeter(sent.api, sent.drop_usage, sent.rename)
        translator = stream_translator(ask, sent)
        headers = downstream_headers(answer.headers, target.name)
        waits = self._fleet.wait(target.name)

        def on_data(chunk: bytes) -> None:
            data = meter.feed(chunk)
            if not data:
                return
            trip.last_at = time.monotonic()
            if not exchange.status:
                if meter.error and meter.events <= 1:
                    raise UpstreamError(f"answered an error: {meter.error[:200]}")
                exchange.start(answer.status, headers)
                trip.first_at = trip.last_at
                waits.spoke(id(trip), trip.last_at)
                if exchange.stalled:
                    answer.pause()
            if translator:
                data = translator.feed(data)
            if data:
                exchange.write(data)

        why, rest = "", b""
        try:
            await answer.push(on_data)
            rest = meter.finish()
            if not meter.ended and not meter.error and meter.events:
                why = f"{target.name} broke off: the stream has no end"
        except FAILURES as error:
            if not exchange.status:
                raise
            why = f"{target.name} broke off: {error}"
        finally:  # for a client that goes away too
            trip.usage, trip.events = meter.usage, meter.events
            trip.broke_off = bool(why) or meter.error is not None
            if meter.response_id:
                self._fleet.remember_answer(meter.response_id, target.name, trip.whose)
        if not exchange.status:
            exchange.start(answer.status, headers)
        if rest and not why:
            exchange.write(translator.feed(rest) if translator else rest)
        if why and not (translator and translator.ended):
            exchange.write(error_event(ask.protocol, 502, why))
        elif translator and (last := translator.end()):
            exchange.write(last)
        exchange.finish()


def _rooted(path: str, root: str) -> str:
    """``/tokenize`` is under no root."""
    return root + path[3:] if path.startswith("/v1/") else path


def _check(ask: Ask, sent: Sent, target: Target, answer: Answer, body: bytes) -> None:
    """Raise for an answer with which another target should be tried."""
    status, cloud = answer.status, target.kind == "cloud"
    after = answer.header(b"retry-after")
    verdict = classify(status, retry_after=bool(after), provider_key=cloud)
    if verdict in ("ok", "client"):
        return
    if cloud and status in MISCONFIGURED:  # about our key: not the client's to read
        why = (
            f"answered {status}: its key, credit or model name in the gateway is wrong"
        )
        raise _RefusedError(Problem(502, why), verdict, None)
    if status < 400:
        why = f"answered {status}: its base URL leads elsewhere"
        raise _RefusedError(Problem(502, why), verdict, None)
    words = error_from(ask, sent, status, body)
    headers = ((b"retry-after", after),) if after else ()
    # 529 is Anthropic's own word for 503.
    shown = 503 if status == 529 and ask.api != sent.api else status
    problem = Problem(shown, f"answered {status}", words, headers)
    raise _RefusedError(problem, verdict, retry_after_s(after, time.time()))


def _tell(fleet: Fleet, name: str, outcome: str, wait_s: float | None) -> None:
    """What a try said about its target."""
    breaker, now = fleet.breaker(name), time.monotonic()
    if outcome == "ok":
        breaker.succeeded(now)
    elif outcome == "failed":
        breaker.failed(now)
    elif outcome == "busy":
        breaker.busy(now, wait_s)
    else:
        breaker.abandoned(now)


def _give_up(trip: Trip, problems: Sequence[tuple[Target, Problem]]) -> None:
    """No target answered: the last one's own words, or all of their problems in a sentence."""
    last = problems[-1][1]
    headers: Headers = [(b"content-type", b"application/json"), *last.headers]
    if last.body:
        trip.exchange.answer(last.status, headers, last.body)
        return
    said = "; ".join(
        f"{target.name}: {problem.message}" for target, problem in problems
    )
    status = last.status if len(problems) == 1 else 502
    body = error_body(trip.ask.protocol, status, f"no target answered ({said})")
    trip.exchange.answer(status, headers, body)
