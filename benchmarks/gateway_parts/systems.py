"""The systems that are measured: lemnos with all its features on, and its peers.

Each is a function from a ``Setting`` to the ``Command`` that starts it, or a LemnosError that
says why it cannot be had here. Peers from PyPI get an environment of their own, with exact
versions, in lemnos's cache directory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gateway_parts.processes import free_port
from lemnos.errors import LemnosError
from lemnos.paths import cache_dir

MODEL = "bench"
INSTALL_S = 1200
MANY = 1_000_000_000
"""A limit that is checked and never reached."""


@dataclass(frozen=True)
class Setting:
    """Where a system listens, what it may write, the engines behind it, and the clients' key."""

    directory: Path
    port: int
    engines: tuple[int, ...]
    key: str

    @property
    def urls(self) -> list[str]:
        """The engines' base URLs, without ``/v1``."""
        return [f"http://127.0.0.1:{port}" for port in self.engines]


@dataclass(frozen=True)
class Command:
    """How a system is started. Keys travel in files and ``env``, not in ``argv``."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)


def lemnos(setting: Setting) -> Command:
    """Keys with limits, prefix routing over the replicas, metrics, request log and ledger."""
    table = setting.directory / "targets.json"
    table.write_text(json.dumps(_table(setting)))
    argv = [sys.executable, "-m", "lemnos.gateway", "--targets", str(table)]
    argv += ["--port", str(setting.port)]
    if "--ledger" in _help(argv[:3]):
        argv += ["--ledger", f"sqlite:///{setting.directory / 'ledger.db'}"]
    return Command(argv)


def nginx(setting: Setting) -> Command:
    """A plain proxy with kept connections: what HTTP alone costs."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise LemnosError("nginx is not installed", fix="apt-get install nginx-light")
    servers = "\n".join(
        f"    server 127.0.0.1:{port} max_fails=1 fail_timeout=1s;"
        for port in setting.engines
    )
    written = setting.directory / "nginx.conf"
    written.write_text(_NGINX.format(port=setting.port, servers=servers))
    return Command(
        [program, "-p", str(setting.directory), "-e", "stderr", "-c", str(written)]
    )


def litellm(setting: Setting) -> Command:
    """The proxy with one worker, its master key and two deployments of one model."""
    program = _installed("litellm", "1.106.2", "litellm[proxy]") / "litellm"
    deployments = [
        {
            "model_name": MODEL,
            "litellm_params": {
                "model": f"openai/{MODEL}",
                "api_base": f"{url}/v1",
                "api_key": "none",
            },
        }
        for url in setting.urls
    ]
    config = {
        "model_list": deployments,
        "router_settings": {"num_retries": 2, "routing_strategy": "simple-shuffle"},
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }
    written = setting.directory / "litellm.yaml"
    written.write_text(json.dumps(config))  # JSON is YAML
    argv = [str(program), "--config", str(written), "--num_workers", "1"]
    argv += ["--host", "127.0.0.1", "--port", str(setting.port)]
    env = {
        "LITELLM_MASTER_KEY": setting.key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
    }
    return Command(argv, env)


def smg(setting: Setting) -> Command:
    """Shepherd's gateway with its prefix routing."""
    program = _installed("smg", "1.13.0", "smg") / "smg"
    argv = [str(program), "launch", "--worker-urls", *setting.urls]
    argv += ["--policy", "cache_aware", "--log-level", "error"]
    argv += ["--prometheus-port", str(free_port())]
    return Command([*argv, "--host", "127.0.0.1", "--port", str(setting.port)])


def vllm_router(setting: Setting) -> Command:
    """vLLM's router with its prefix routing."""
    program = _installed("vllm-router", "0.1.17", "vllm-router") / "vllm-router"
    argv = [str(program), "--worker-urls", *setting.urls]
    argv += ["--policy", "cache_aware", "--log-level", "error"]
    argv += ["--prometheus-port", str(free_port())]
    return Command([*argv, "--host", "127.0.0.1", "--port", str(setting.port)])


PEERS: dict[str, Callable[[Setting], Command]] = {
    "nginx": nginx,
    "litellm": litellm,
    "smg": smg,
    "vllm-router": vllm_router,
}


def _table(setting: Setting) -> dict[str, object]:
    targets = [
        {"name": f"engine-{number}", "base_url": url}
        for number, url in enumerate(setting.urls)
    ]
    key = {
        "name": "bench",
        "sha256": hashlib.sha256(setting.key.encode()).hexdigest(),
        "requests_per_minute": MANY,
        "tokens_per_minute": MANY,
        "concurrency": MANY,
        "budget_usd": MANY,
    }
    price = {"input": 0.6, "output": 2.2, "as_of": "2026-11-21"}
    route = {"model": MODEL, "targets": targets, "compare": price}
    return {"version": 2, "revision": 1, "routes": [route], "keys": [key]}


def _help(argv: list[str]) -> str:
    done = subprocess.run(
        [*argv, "--help"], capture_output=True, text=True, check=False
    )
    return done.stdout


def _installed(name: str, version: str, package: str) -> Path:
    """The ``bin`` of an environment with ``package``, made at the first call."""
    from uv import find_uv_bin

    home = cache_dir() / "benchmarks" / f"{name}-{version}"
    done = home / "installed"
    if done.exists():
        return home / "bin"
    sys.stderr.write(f"installing {name} {version} (once)\n")
    home.parent.mkdir(parents=True, exist_ok=True)
    python = home / "bin" / "python"
    for command in (
        ["venv", "--quiet", "--clear", str(home)],
        ["pip", "install", "--quiet", "--python", str(python), f"{package}=={version}"],
    ):
        try:
            said = subprocess.run(
                [find_uv_bin(), *command],
                capture_output=True,
                text=True,
                check=False,
                timeout=INSTALL_S,
                cwd=home.parent,  # where this repository's own pins do not bind
            )
        except subprocess.TimeoutExpired:
            raise LemnosError(f"{name} did not install in {INSTALL_S} s") from None
        if said.returncode:
            why = " ".join(said.stderr.split())[:200]
            raise LemnosError(f"{name} {version} does not install: {why}")
    done.touch()
    return home / "bin"


_NGINX = """
daemon off;
worker_processes 1;
worker_rlimit_nofile 16384;
pid nginx.pid;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  upstream engines {{
{servers}
    keepalive 1024;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    keepalive_requests 100000000;
    location / {{
      proxy_pass http://engines;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_next_upstream error timeout non_idempotent;
    }}
  }}
}}
"""
