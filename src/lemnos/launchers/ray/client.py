"""Ray's dashboard over HTTP: jobs, packages, nodes and logs."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2
import orjson

from lemnos.errors import LemnosError
from lemnos.launchers.ray import parse
from lemnos.launchers.ray.parse import RayJob, RayNode

T = TypeVar("T")
TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
LOG_TIMEOUT_S = 10
"""That a node's agent has to answer."""


class Client:
    """One dashboard. ``url``: its base URL as this machine reaches it; ``token``: what it demands, if it does;
    ``shown``: its name in messages. Every method raises LemnosError while it does not answer."""

    def __init__(
        self, url: Callable[[], str], token: Callable[[], str], shown: str
    ) -> None:
        self._url = url
        self._token = token
        self._shown = shown

    def jobs(self) -> tuple[RayJob, ...]:
        """All that were submitted, by whomever, and are still known."""
        return self._read(parse.jobs_of(self._json("GET", "/api/jobs/")))

    def nodes(self) -> tuple[RayNode, ...]:
        """The nodes, with what is free of each as far as Ray tells."""
        rows = self._json("GET", "/api/v0/nodes")
        status = self._json("GET", "/api/cluster_status")
        return self._read(parse.nodes_of(rows, status))

    def version(self) -> str:
        """Of Ray."""
        answer = self._json("GET", "/api/version")
        found = answer.get("ray_version") if isinstance(answer, dict) else None
        return self._read(str(found) if found else None)

    def upload(self, package: str, data: bytes) -> None:
        """The files of a job."""
        self._ask("PUT", f"/api/packages/gcs/{package}", content=data)

    def submit(self, body: dict[str, Any]) -> None:
        """A job; one that is there already under its id is left as it is."""
        answer = self._send("POST", "/api/jobs/", json=body)
        if answer.is_success or "already exists" in answer.text:
            return
        raise self._refused(answer)

    def stop(self, job: str) -> None:
        """Ask it to end; one that has ended, or is not known, is no error."""
        answer = self._send("POST", f"/api/jobs/{_quoted(job)}/stop")
        if not answer.is_success and answer.status_code not in (400, 404):
            raise self._refused(answer)

    def delete(self, job: str) -> None:
        """Forget it; one that runs, or is not known, is no error."""
        answer = self._send("DELETE", f"/api/jobs/{_quoted(job)}")
        if not answer.is_success and answer.status_code not in (400, 404, 500):
            raise self._refused(answer)

    def printed(self, job: str) -> str:
        """What its driver printed; empty for a job that has not begun, or is not known."""
        answer = self._send("GET", f"/api/jobs/{_quoted(job)}/logs")
        if not answer.is_success:
            return ""
        found = self._parsed(answer)
        return str(found.get("logs") or "") if isinstance(found, dict) else ""

    def log(self, address: str, name: str, lines: int) -> str:
        """The last lines of a file of a node's session logs; empty where there is none, or the node does not answer."""
        query = {
            "node_ip": address,
            "filename": name,
            "lines": lines,
            "timeout": LOG_TIMEOUT_S,
        }
        answer = self._send("GET", "/api/v0/logs/file", params=query)
        return answer.text if answer.is_success else ""

    def _json(self, method: str, path: str) -> Any:
        return self._parsed(self._ask(method, path))

    def _ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        answer = self._send(method, path, **options)
        if not answer.is_success:
            raise self._refused(answer)
        return answer

    def _send(self, method: str, path: str, **options: Any) -> httpx2.Response:
        token = self._token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            base = self._url()
            # Launchers have no end at which a connection could be closed. (Certificates are loaded
            # where they are needed: that takes longer than a question.)
            with httpx2.Client(
                base_url=base,
                timeout=TIMEOUT,
                trust_env="//127." not in base and "//localhost" not in base,
                verify=base.startswith("https:"),
            ) as http:
                answer = http.request(method, path, headers=headers, **options)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise LemnosError(
                f"Ray's dashboard does not answer ({error or type(error).__name__})",
                where=self._shown,
                fix="ray.address is the dashboard's URL (port 8265 by default), as this machine reaches it, "
                "or the one that via: names",
            ) from None
        if answer.status_code in (401, 403):
            raise self._unauthorized(answer, token)
        return answer

    def _parsed(self, answer: httpx2.Response) -> Any:
        try:
            return orjson.loads(answer.content)
        except ValueError:
            raise self._stranger() from None

    def _read(self, value: T | None) -> T:
        if value is None:
            raise self._stranger()
        return value

    def _refused(self, answer: httpx2.Response) -> LemnosError:
        if answer.status_code in (404, 405, 501) or answer.text.lstrip().startswith("<"):  # fmt: skip
            return self._stranger()
        lines = [line.strip() for line in answer.text.splitlines() if line.strip()]
        said = (
            lines[-1][:300] if lines else f"status {answer.status_code}"
        )  # of a traceback
        return LemnosError(
            f"Ray refuses it: {said}",
            where=self._shown,
            fix="the dashboard's own log on the head (dashboard_JobHead.log) says more",
        )

    def _stranger(self) -> LemnosError:
        return LemnosError(
            "what answers there is no Ray dashboard, or one without the jobs API",
            where=self._shown,
            fix="give the dashboard's URL (http://HEAD:8265), and install ray[default] on the head",
        )

    def _unauthorized(self, answer: httpx2.Response, token: str) -> LemnosError:
        what = "refuses the token" if token else "demands a token"
        return LemnosError(
            f"Ray's dashboard {what} (status {answer.status_code})",
            where=self._shown,
            fix="set ray.token_file to a file with the cluster's (`ray get-auth-token` prints it)",
        )


def _quoted(job: str) -> str:
    return urllib.parse.quote(job, safe="")
