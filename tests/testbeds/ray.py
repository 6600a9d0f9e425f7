"""A real Ray: ``head``, which has the control plane alone, and ``n1``, ``n2`` ... with GPUs that are not there.

Ray comes from the package index, into an environment of its own beside the other beds' things;
``python -m tests.testbeds.ray`` makes it, and tests are skipped where it is not. ``hosts_with_ray`` has the
hosts without a cluster on them, for lemnos to start one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from uv import find_uv_bin

from tests.testbeds.hosts import REPOSITORY, Hosts, environment, hosts
from tests.waiting import until

VERSION = "2.60.0"
CACHE = Path(
    os.environ.get("LEMNOS_BED_CACHE") or REPOSITORY / ".pytest_cache/d/testbeds"
)
ENVIRONMENT = CACHE / f"ray-{VERSION}"
PYTHON = ENVIRONMENT / "bin/python"
START_S = 150.0
TRIES = 3
# A lost node is noticed after 1 + 3 x 1 s; raylets of a small machine start no workers in advance.
SHORT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_enable_worker_prestart": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_agent_register_timeout_ms": "30000",
    "RAY_USAGE_STATS_ENABLED": "0",
}
SMALL = (
    *("--num-cpus", "4"),
    *("--object-store-memory", "80000000"),
    "--disable-usage-stats",
)


@dataclass
class Ray:
    """A running cluster."""

    hosts: Hosts
    nodes: list[str]
    temporary: Path
    env: Mapping[str, str]
    running: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    started: dict[str, tuple[int]] = field(default_factory=dict)

    url = "http://127.0.0.1:8265"
    """The dashboard, as ``head`` sees it: it listens on its loopback only."""

    def at(self, host: str) -> list[str]:
        return self.hosts.at(host)

    def alive(self) -> list[str]:
        """The addresses of the nodes that Ray takes to be there."""
        ask = f"import urllib.request as u; print(u.urlopen('{self.url}/api/v0/nodes', timeout=5).read().decode())"
        done = subprocess.run(
            [*self.at("head"), sys.executable, "-I", "-S", "-c", ask],
            capture_output=True, text=True, check=False, env=environment(),
        )  # fmt: skip
        if done.returncode:
            return []
        rows = httpx2.Response(200, text=done.stdout).json()
        nodes = rows["data"]["result"]["result"]
        return [node["node_ip"] for node in nodes if node["state"] == "ALIVE"]

    def kill_node(self, host: str) -> None:
        """Its power is cut."""
        self.hosts.kill(host)
        self.running.pop(host).communicate()

    def restart(self, host: str) -> None:
        """Ray there anew, after its raylet was killed: the rest of it ends by itself."""
        self.running.pop(host).communicate(timeout=60)
        self.start(host, gpus=8)
        self.wait()

    def start(self, host: str, gpus: int) -> None:
        """Ray on ``host``; it ends with the host."""
        address = self.hosts.addresses[host]
        here = self.temporary
        if host not in self.started:
            self.hosts.run(host, "mkdir", "-p", str(here))
            self.hosts.hide(host, here)
        self.started[host] = (gpus,)
        how = ["--address", f"{self.hosts.addresses['head']}:6379"]
        if host == "head":
            how = ["--head", "--port", "6379", "--temp-dir", str(here)]
            how += ["--dashboard-host", "127.0.0.1", "--dashboard-port", "8265"]
        self.running[host] = self.hosts.start(
            host,
            *(str(PYTHON), "-m", "ray.scripts.scripts", "start", *how, *SMALL),
            *("--node-ip-address", address, "--num-gpus", str(gpus), "--block"),
            *("--resources", f'{{"{host}": 1}}'),
            env=self.env,
        )

    def wait(self) -> None:
        """Until all hosts are nodes. One whose agents were slow to start (Ray waits 15 s, and this machine is small) is
        started once more."""
        want = {self.hosts.addresses[host] for host in self.running}
        tries = dict.fromkeys(self.running, TRIES)

        def there() -> bool:
            for host, process in list(self.running.items()):
                if process.poll() is None:
                    continue
                printed, said = process.communicate()
                tries[host] -= 1
                assert tries[host], f"{host}: {printed}{said}"
                self.start(host, *self.started[host])
            return {*self.alive()} >= want

        until(there, within_s=START_S)


@contextmanager
def ray(
    directory: Path,
    nodes: int = 2,
    gpus: int = 8,
    *,
    env: Mapping[str, str] | None = None,
) -> Iterator[Ray]:
    """A cluster while the body runs; the test is skipped where there can be none. ``env``: of all of Ray's
    processes, such as RAY_AUTH_MODE."""
    names = [f"n{number}" for number in range(1, nodes + 1)]
    with hosts_with_ray(directory, "head", *names) as there:
        bed = Ray(there, names, short_directory(directory), SHORT | variables() | dict(env or {}))  # fmt: skip
        try:
            bed.start("head", 0)
            bed.wait()
            for name in names:
                bed.start(name, gpus)
                bed.wait()
            yield bed
        finally:
            for process in bed.running.values():
                process.kill()
                process.communicate()
            shutil.rmtree(bed.temporary, ignore_errors=True)


@contextmanager
def hosts_with_ray(directory: Path, *names: str) -> Iterator[Hosts]:
    """Hosts on which Ray could be started."""
    if not PYTHON.exists():
        pytest.skip("needs Ray: python -m tests.testbeds.ray")
    with hosts(directory, *names) as there:
        yield there


def variables() -> dict[str, str]:
    """Ray's own programs are found on the PATH by what it starts."""
    return {"PATH": f"{PYTHON.parent}:{environment()['PATH']}"}


def short_directory(directory: Path) -> Path:
    """For sockets, whose paths may have 107 bytes."""
    return Path(f"/tmp/lemnos-ray-{os.getpid()}-{abs(hash(str(directory))) % 10_000}")


def install() -> None:
    """Make ``ENVIRONMENT``. Raises CalledProcessError."""
    new = ENVIRONMENT.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    uv = find_uv_bin()
    subprocess.run(
        [uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, new],
        check=True,
    )
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", new / "bin/python", f"ray[default]=={VERSION}"],
        check=True,
    )  # fmt: skip
    new.rename(ENVIRONMENT)


if __name__ == "__main__" and not ENVIRONMENT.is_dir():
    install()
