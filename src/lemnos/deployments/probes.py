"""Does it work, and how much does it do? Asked of engines and endpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

COMPLETION_TIMEOUT_S = 120.0
"""A first completion may compile kernels."""
CROSS_TIMEOUT_S = 300.0
"""One among many others waits its turn: only a replica that answers nobody may be found hung."""
HEALTH_TIMEOUT_S = 5.0
AT_ONCE = 64
"""Probes in flight: a thousand replicas must not mean a thousand threads."""


def health(url: str, path: str = "/health") -> str:
    """GET ``path``: enough to see that a process which worked still answers."""
    import httpx2

    try:
        with httpx2.Client(trust_env=False, timeout=HEALTH_TIMEOUT_S) as client:
            code = client.get(f"{url}{path}").status_code
    except httpx2.HTTPError as error:
        return f"{path}: {error or type(error).__name__}"
    return "" if code == 200 else f"{path} answered {code}"


def completion(
    url: str,
    model: str,
    key: str | None,
    expected: Sequence[str] = (),
    timeout_s: float = COMPLETION_TIMEOUT_S,
) -> str:
    """One real token: engines were seen answering /health with 200 and failing this.

    Of an endpoint, the answer must come from one of the ``expected`` targets, where the gateway says
    which it was: not from those that it was told of before.
    """
    import httpx2

    body = {"model": model, "prompt": "Hello", "max_tokens": 1}
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx2.Client(trust_env=False, timeout=timeout_s) as client:
            answer = client.post(f"{url}/v1/completions", json=body, headers=headers)
    except httpx2.HTTPError as error:
        return str(error) or type(error).__name__
    if answer.status_code != 200:
        return (
            f"a completion was answered with {answer.status_code}: {answer.text[:200]}"
        )
    try:
        answer.json()["choices"][0]
    except (ValueError, LookupError, TypeError):
        return f"a completion was answered with no choices: {answer.text[:200]}"
    target = answer.headers.get("x-lemnos-target")
    if expected and target and target not in expected:
        return f"a completion was answered by {target} yet"
    return ""


def open_requests(url: str, key: str | None) -> tuple[dict[str, int] | None, str]:
    """Requests that each target of the gateway serves now, and "" or what is wrong."""
    text, error = _metrics(url, key)
    if text is None:
        return None, error
    found = _samples(text, "lemnos_in_flight")
    return {labels.get("target", ""): int(value) for labels, value in found}, ""


def waiting_requests(
    urls: Sequence[str], metric: str | None, key: str | None
) -> float | None:
    """Requests that wait at engines for a free place, all together; None: nobody tells."""
    if metric is None:
        return None
    told = [_metrics(url, key)[0] for url in urls]
    values = [v for text in told if text for _, v in _samples(text, metric)]
    return sum(values) if values else None


def _metrics(url: str, key: str | None) -> tuple[str | None, str]:
    import httpx2

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx2.Client(trust_env=False, timeout=HEALTH_TIMEOUT_S) as client:
            answer = client.get(f"{url}/metrics", headers=headers)
    except httpx2.HTTPError as error:
        return None, str(error) or type(error).__name__
    if answer.status_code != 200:
        return None, f"/metrics answered {answer.status_code}"
    return answer.text, ""


def _samples(text: str, name: str) -> list[tuple[dict[str, str], float]]:
    from prometheus_client.parser import text_string_to_metric_families

    return [
        (dict(sample.labels), float(sample.value))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


class Probes:
    """Probes that run beside the ticks, one of a name at a time."""

    def __init__(self) -> None:
        self._running: set[str] = set()
        self._answers: dict[str, tuple[bool, str]] = {}
        self._woken = threading.Event()

    def start(self, name: str, probe: Callable[[], str]) -> None:
        """Run ``probe`` (returns "" or what is wrong), unless one of this name still runs, or so many
        do that this one had better wait for the next tick."""
        if name in self._running or len(self._running) >= AT_ONCE:
            return
        self._running.add(name)
        # A daemon thread: one that hangs must not keep a finished supervisor alive.
        threading.Thread(target=self._run, args=(name, probe), daemon=True).start()

    def _run(self, name: str, probe: Callable[[], str]) -> None:
        try:
            error = probe()
        except Exception as failure:  # whatever it was, the probe did not succeed
            error = f"{type(failure).__name__}: {failure}"
        self._answers[name] = (not error, error)
        self._running.discard(name)
        self._woken.set()

    def take(self, name: str) -> tuple[bool | None, str]:
        """The answer since the last take; (None, "") if there is none."""
        return self._answers.pop(name, (None, ""))

    def wake(self) -> None:
        """End a wait."""
        self._woken.set()

    def wait(self, seconds: float) -> None:
        """Wait, but not longer than until a probe has answered."""
        self._woken.wait(seconds)
        self._woken.clear()
