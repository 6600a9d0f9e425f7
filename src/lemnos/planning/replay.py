"""Logged traffic through the speed model: lengths and arrival times, never prompts. Pure.

A log is CSV with a header, or JSONL; a row is (time, input tokens, output tokens), the shape
that the gateway's ledger writes too.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from lemnos.errors import UsageError
from lemnos.planning.budget import Fit
from lemnos.planning.pace import serve
from lemnos.planning.queueing import Request, Served, percentile
from lemnos.planning.speed import StepModel
from lemnos.spec.proposal import Proposal, Replayed, Slo

TIME_KEYS = ("time", "timestamp", "at", "arrived", "started")
INPUT_KEYS = ("input_tokens", "prompt_tokens", "input", "isl")
OUTPUT_KEYS = ("output_tokens", "completion_tokens", "output", "osl")
MOST_REQUESTS = 2_000_000


def parse_log(text: str, where: str) -> list[Request]:
    """The log's requests, by arrival, the first at 0 s.

    Times are seconds (of any epoch) or ISO 8601. Raises UsageError that names the line.
    """
    rows: Iterable[tuple[int, Mapping[str, Any]]]
    stripped = text.lstrip("\ufeff \n")
    rows = _jsonl(text, where) if stripped.startswith("{") else _csv(text, where)
    found = []
    for line, row in rows:
        place = f"{where}:{line}"
        at = _seconds(_value(row, TIME_KEYS, place), place)
        prompt = _tokens(_value(row, INPUT_KEYS, place), "input", place)
        output = _tokens(_value(row, OUTPUT_KEYS, place), "output", place)
        if output == 0 or prompt == 0:
            continue  # a request that was refused or failed: it took no time of the engine
        found.append(Request(at, prompt, output))
        if len(found) > MOST_REQUESTS:
            raise UsageError(
                f"has more than {MOST_REQUESTS} requests",
                where=where,
                fix="give a part of it",
            )
    if not found:
        raise UsageError("has no requests with tokens", where=where)
    found.sort(key=lambda request: request.at)
    start = found[0].at
    return [Request(r.at - start, r.prompt, r.output) for r in found]


def replay(
    requests: Sequence[Request],
    model: StepModel,
    fitted: Fit,
    plan: Proposal,
    slo: Slo,
    error: float,
) -> Replayed:
    """What ``requests`` would have seen on ``plan``, given to its replicas in turn."""
    lanes = plan.layout.replicas * plan.layout.data
    served: list[Served] = []
    for lane in range(lanes):
        own = list(requests[lane::lanes])
        if own:
            served += serve(model, fitted, own)
    done = [each for each in served if math.isfinite(each.ttft)]
    if not done:
        done = [Served(math.inf, math.inf, math.inf)]
    ttft = [each.ttft * 1e3 for each in done]
    tpot = [each.tpot * 1e3 for each in done]
    p95 = percentile(ttft, 0.95)
    last = max(each.finished for each in done)
    kept = [each for each in served if _kept(each, slo)]
    asked = slo.ttft_s is not None or slo.tpot_s is not None
    return Replayed(
        layout=plan.layout,
        gpu=plan.gpu,
        gpus=plan.gpus,
        requests=len(requests),
        unserved=len(served) - len(done),
        ttft_p50_ms=round(percentile(ttft, 0.5), 2),
        ttft_p95_ms=round(p95, 2),
        ttft_p95_ms_interval=(round(p95 / (1 + error), 2), round(p95 * (1 + error), 2)),
        tpot_p50_ms=round(percentile(tpot, 0.5), 3),
        tpot_p95_ms=round(percentile(tpot, 0.95), 3),
        output_tokens_per_s=round(sum(r.output for r in requests) / max(last, 1e-9), 1),
        meets_slo=round(len(kept) / len(served), 4) if asked else None,
    )


def _kept(each: Served, slo: Slo) -> bool:
    return (slo.ttft_s is None or each.ttft <= slo.ttft_s) and (
        slo.tpot_s is None or each.tpot <= slo.tpot_s
    )


def _jsonl(text: str, where: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UsageError("is no JSON object", where=f"{where}:{number}")
        yield number, row


def _csv(text: str, where: str) -> Iterable[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise UsageError(f"is no CSV: {error}", where=where) from None


def _value(row: Mapping[str, Any], keys: Sequence[str], place: str) -> Any:
    for key in keys:
        if row.get(key) not in (None, ""):
            return row[key]
    raise UsageError(
        f"has no '{keys[0]}'",
        where=place,
        fix="a log has the columns time, input_tokens, output_tokens",
    )


def _seconds(value: Any, place: str) -> float:
    try:
        number = float(value)
        if math.isfinite(number):
            return number
    except (TypeError, ValueError):
        pass
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"'{str(value)[:40]}' is no time",
            where=place,
            fix="give seconds, or ISO 8601 such as 2026-11-21T08:00:00",
        ) from None


def _tokens(value: Any, name: str, place: str) -> int:
    try:
        number = float(value)
        if number >= 0 and number == int(number) and number < 1e9:
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise UsageError(f"'{str(value)[:40]}' is no number of {name} tokens", where=place)
