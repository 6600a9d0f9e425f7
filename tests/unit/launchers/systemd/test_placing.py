"""Where units go, and what the gateway takes along."""

from __future__ import annotations

import socket
import subprocess

import pytest

from lemnos.errors import LemnosError
from lemnos.launchers.systemd import placing
from lemnos.launchers.systemd.environment import carried, environment_text
from lemnos.spec.place import INNER_PORTS
from lemnos.transport.here import Here
from tests.unit.engines.rendered import glm
from tests.unit.launchers.systemd import units

HOSTS = units.spec(systemd={"hosts": ["a", "b", "c"]})


def test_hosts_with_the_fewest_units_come_first() -> None:
    plan = glm("vllm")
    assert placing.choose_hosts(plan, HOSTS, []) == ("a",)
    assert placing.choose_hosts(plan, HOSTS, [("a",)]) == ("b",)


def test_a_host_has_gpus_for_one_unit() -> None:
    with pytest.raises(
        LemnosError, match="1 free hosts are needed, and there are 0 of 3"
    ):
        placing.choose_hosts(glm("vllm"), HOSTS, [("a", "b"), ("c",)])


def test_ray_joins_hosts_where_it_is_asked_for() -> None:
    spec = units.spec(systemd={"hosts": ["a", "b"], "ray": True}, interface="ib0")
    place = placing.over(("a", "b"), glm("vllm"), spec, (4000, 4001))
    assert place.ray and place.interface == "ib0" and place.gpus_per_host == 4
    assert not placing.over(("a",), glm("vllm"), spec, (4000, 4001)).ray


def test_ports_that_are_found_are_free() -> None:
    port, inner = placing.free_ports(Here())
    for each in (port, *range(inner, inner + INNER_PORTS)):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", each))


def test_the_gateway_takes_proxies_places_and_keys_of_clouds_along() -> None:
    env = {
        "https_proxy": "http://proxy:3128",
        "LEMNOS_HOME": "/srv/lemnos",
        "NOVITA_API_KEY": "n",
        "MY_KEY": "m",
        "AWS_SECRET": "no",
    }
    near = carried(env, units.spec())
    assert near == {"https_proxy": "http://proxy:3128", "LEMNOS_HOME": "/srv/lemnos"}
    cloud = {"provider": "novita", "model": "glm", "key_env": "MY_KEY"}
    spec = units.spec(endpoint={"api_key_file": "/k", "cloud": [cloud]})
    assert set(carried(env, spec)) == {
        "https_proxy",
        "LEMNOS_HOME",
        "NOVITA_API_KEY",
        "MY_KEY",
    }


def test_an_environment_file_reads_as_a_shell_would() -> None:
    env = {"A": 'a "b" $HOME `id` \\n %n', "B": "two\nlines", "C": ""}
    script = environment_text(env) + 'printf \'%s\\0\' "$A" "$B" "$C"'
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, check=True, text=True
    )
    assert done.stdout.split("\0")[:-1] == list(env.values())
