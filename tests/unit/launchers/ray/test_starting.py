"""How lemnos' own Ray is started, and what hosts are refused for."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from importlib import resources
from typing import Any

import pytest

from lemnos.errors import LemnosError, UsageError
from lemnos.launchers.ray import starting
from lemnos.launchers.ray.launcher import Ray
from lemnos.launchers.ray.starting import Said
from tests.unit.launchers.ray import units

HOSTS = {"hosts": ["n1", "n2", "n3"], "python": "/opt/ray/bin/python"}
ADDRESSES = {"n1": "10.0.0.1", "n2": "10.0.0.2", "n3": "10.0.0.3"}
GOOD = Said(python="3.11.7", ray="2.60.0", dashboard=True, cpus=8)
ASK = resources.files("lemnos.launchers.ray").joinpath("ask.py").read_text()


def check(**changed: dict[str, Any]) -> None:
    said = {h: GOOD.model_copy(update=changed.get(h, {})) for h in HOSTS["hosts"]}
    starting.check(units.site(ray=HOSTS).spec.ray, said, ADDRESSES, "/opt/ray/bin/python")  # fmt: skip


def asked(question: dict[str, Any]) -> Said:
    words = [sys.executable, "-I", "-S", "-c", ASK, json.dumps(question)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return starting.said_of(done.stdout, "n1")


def test_every_port_is_fixed_and_said() -> None:
    site = units.site(ray=HOSTS)
    head = starting.job_of(site, 0, list(ADDRESSES.values()), tokens=True)
    worker = starting.job_of(site, 2, list(ADDRESSES.values()), tokens=False)
    assert head.id == "chat/ray-0" and worker.host == "n3"
    line = " ".join(head.command.argv)
    assert "--head --port 6379" in line and "--dashboard-host 127.0.0.1" in line
    assert "--node-manager-port=21000" in line and "--max-worker-port=21209" in line
    assert head.command.env["RAY_AUTH_MODE"] == "token"
    assert "--address 10.0.0.1:6379" in " ".join(worker.command.argv)
    assert "RAY_AUTH_MODE" not in worker.command.env
    first, second = starting.notes(site.spec.ray)
    assert "21000-21209" in first and "6379" in first and "token" in second


def test_what_a_dry_run_shows_begins_with_the_cluster() -> None:
    site = units.site(ray=HOSTS)
    found = Ray(site).render(units.engine(site))
    assert [c[:2] for c in found.commands[:3]] == [("ssh", n) for n in HOSTS["hosts"]]
    assert "ADDRESS-OF-n1:6379" in found.commands[1]
    assert found.commands[-1][0] == "curl"


@pytest.mark.parametrize(
    ("host", "changes", "says"),
    [
        ("n2", {"ray": ""}, "has no Ray"),
        ("n1", {"dashboard": False}, "dashboard and its jobs API are not installed"),
        ("n3", {"ray": "2.59.0"}, "mixed versions: n1 has Ray 2.60.0 and Python 3.11.7"),
        ("n2", {"python": "3.12.1"}, "n2 has Ray 2.60.0 and Python 3.12.1"),
    ],
)  # fmt: skip
def test_hosts_that_differ_are_refused(host: str, changes: dict[str, Any], says: str) -> None:  # fmt: skip
    with pytest.raises(UsageError, match=says):
        check(**{host: changes})


def test_ports_that_are_closed_or_taken_are_said() -> None:
    check()
    check(n2={"dashboard": False})
    with pytest.raises(LemnosError, match="another process has port 6379"):
        check(n1={"taken": (6379,)})
    with pytest.raises(LemnosError, match=r"n3 does not reach port 6379 of n1 \(10.0.0.1\): timed out"):  # fmt: skip
        check(n3={"blocked": (("10.0.0.1", 6379, "timed out"),)})


def test_each_host_tries_the_others_and_itself() -> None:
    spec = units.site(ray=HOSTS).spec.ray
    numbers = dict(enumerate(ADDRESSES.values()))
    head = json.loads(starting.question(spec, 0, numbers, {0, 1, 2}))
    worker = json.loads(starting.question(spec, 1, numbers, {1}))
    assert {6379, 8265, 21000} <= set(head["own"]) and 8265 not in worker["own"]
    assert ["10.0.0.1", 6379] in worker["ways"]
    assert not [way for way in worker["ways"] if way[0] == "10.0.0.2"]
    assert json.loads(starting.question(spec, 2, numbers, {1}))["own"] == []


def test_a_host_tells_what_it_reaches() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as other:
            free = other.getsockname()[1]
        ways = [["127.0.0.1", taken], ["127.0.0.1", free], ["256.0.0.1", 1]]
        said = asked({"ways": ways, "own": [taken, free]})
    assert said.python.startswith("3.") and said.ray == "" and said.cpus > 0
    assert said.taken == (taken,)
    assert [way[:2] for way in said.blocked] == [("256.0.0.1", 1)]
    with pytest.raises(LemnosError, match="does not tell its versions"):
        starting.said_of("Traceback", "n1")


def test_the_last_words_of_ray_are_its_exception() -> None:
    log = "Traceback\n  x\nException: The current node timed out\nLocal node IP: 10.0.0.1\n\n"
    assert starting.last_words(log) == "Exception: The current node timed out"
    assert starting.last_words("a\nb\n") == "b"
    assert starting.last_words(" \n") == "it said nothing"


def test_tokens_are_of_newer_versions() -> None:
    assert starting.has_tokens("2.60.0") and starting.has_tokens("2.52.0")
    assert not starting.has_tokens("2.51.1") and not starting.has_tokens("nightly")


def test_own_hosts_and_via_are_two_ways() -> None:
    with pytest.raises(UsageError, match=r"reached by SSH from here"):
        Ray(units.site(ray=HOSTS, via="login"))
