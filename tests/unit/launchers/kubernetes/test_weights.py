"""How the model comes to pods: volumes as the spec says, and pulls that run for real against a hub on loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lemnos.errors import UsageError
from lemnos.spec.clusters import MODELS
from lemnos.spec.facts import LocalModel
from lemnos.spec.unit import Unit
from tests import tiny_models
from tests.hub import Hub, serving
from tests.manifests import pods_of
from tests.unit.launchers.kubernetes import units
from tests.unit.launchers.kubernetes.units import all_of, only, site

FILES = {"config.json": b"{}", "model.safetensors": b"w" * 4096}
GGUF = tiny_models.gguf(tensors={"w": 64})
KEYED = {"endpoint": {"api_key_file": "keys"}}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub({"org/one": dict(FILES), "org/two": {"m.gguf": GGUF}})) as made:
        yield made


def unit(source: str, path: str = f"{MODELS}/one", make: Unit | None = None) -> Unit:
    """A unit that serves ``source``, which is below the volume at ``path``."""
    base = make or units.vllm()
    assert base.served is not None
    model = LocalModel(
        name="one", source=source, format="safetensors", path=path, bytes=10 * 2**30
    )
    served = base.served.model_copy(update={"model": model})
    return base.model_copy(update={"served": served})


def puller(of: Unit, **keys: Any) -> dict[str, Any]:
    """The container that pulls: the Job's, or with a directory of the node the pod's first."""
    found = all_of(of, site(**keys))
    if any(each["kind"] == "Job" for each in found):
        (pod,) = pods_of(only(found, "Job"))
        return dict(pod["containers"][0])
    (pod,) = pods_of(only(found, "Deployment"))
    return dict(pod["initContainers"][0])


def run(container: dict[str, Any], volume: Path, hub: Hub) -> str:
    """What the container does, its volume at ``volume``; what it said."""
    env = {each["name"]: each["value"].replace("$$", "$") for each in container["env"]}
    words = [word.replace("$$", "$") for word in container["command"]]
    for name in ("MARKER", "TARGET", "LEMNOS_MODELS"):
        if name in env:
            env[name] = env[name].replace(MODELS, str(volume), 1)
    env |= {name: str(volume / "home") for name in ("HF_HOME", "LEMNOS_HOME")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env |= {"PATH": path, "HF_ENDPOINT": hub.url}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise ChildProcessError(done.stderr)
    return done.stdout + done.stderr


def test_a_pull_fills_the_volume_and_marks_it(hub: Hub, tmp_path: Path) -> None:
    """What was pulled is not pulled again; what failed leaves no marker."""
    container = puller(unit("hf://org/one"))
    hub.statuses = [404] * 20
    with pytest.raises(ChildProcessError):
        run(container, tmp_path, hub)
    assert not [p for p in (tmp_path / ".lemnos").iterdir() if p.suffix != ".lock"]
    hub.statuses = []
    assert "pulls org/one at main" in run(container, tmp_path, hub)
    assert {f: (tmp_path / "one" / f).read_bytes() for f in FILES} == FILES
    hub.requests.clear()
    assert run(container, tmp_path, hub) == "" and not hub.requests


def test_lemnos_own_image_pulls_as_lemnos_does(hub: Hub, tmp_path: Path) -> None:
    """To the path that the plan has, which is where lemnos' own store would have it."""
    gguf = unit("hf://org/two/m.gguf", f"{MODELS}/x/m.gguf", units.small())
    keys = {"kubernetes": {"gateway_image": "x"}, **KEYED}
    container = puller(gguf, **keys)
    run(container, tmp_path, hub)
    assert [path.read_bytes() for path in tmp_path.rglob("m.gguf")] == [GGUF]
    hub.requests.clear()
    run(container, tmp_path, hub)
    assert not hub.requests


def test_pods_wait_until_the_model_is_whole(tmp_path: Path) -> None:
    (pod,) = pods_of(only(all_of(unit("hf://org/one"), site()), "Deployment"))
    (waiter,) = pod["initContainers"]
    marker = tmp_path / "marker"
    child = subprocess.Popen(
        waiter["command"],
        env={"MARKER": str(marker), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        # The second word comes after the marker: the next look finds it.
        sleep = tmp_path / "sleep"
        assert child.stdout is not None
        sleep.write_text("#!/bin/sh\n")
        sleep.chmod(0o755)
        assert "waits for the model" in child.stdout.readline()
        marker.touch()
        assert child.wait(60) == 0
    finally:
        child.kill()
        child.communicate()


def test_a_pod_that_waits_goes_when_it_is_told_to(tmp_path: Path) -> None:
    """The kernel spares a container's first process a signal that it does not handle."""
    (pod,) = pods_of(only(all_of(unit("hf://org/one"), site()), "Deployment"))
    child = subprocess.Popen(
        pod["initContainers"][0]["command"],
        env={"MARKER": str(tmp_path / "none"), "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None
    assert b"waits for the model" in child.stdout.readline()
    child.terminate()
    assert child.wait(60) == 143
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # its sleep
    child.stdout.close()


def test_a_claim_holds_the_model_and_a_tenth_more() -> None:
    claim = only(all_of(unit("hf://org/one"), site()), "PersistentVolumeClaim")
    assert claim["spec"]["resources"]["requests"]["storage"] == "11Gi"
    other = only(all_of(unit("hf://org/two"), site()), "PersistentVolumeClaim")
    # Another model has another claim: the revision before it can come back.
    assert claim["metadata"]["name"] != other["metadata"]["name"]


def test_another_job_has_another_name() -> None:
    """Jobs cannot be changed, so that one with another image must not have the old one's name."""
    names = {
        only(all_of(of, site(kubernetes={"cpus": "1"})), "Job")["metadata"]["name"]
        for of in (unit("hf://org/one"), unit("hf://org/one@v2"), units.sglang())
    }
    assert len(names) == 3


@pytest.mark.parametrize(
    ("weights", "kinds", "volume"),
    [
        ({"claim": "m"}, {"Job"}, {"persistentVolumeClaim": {"claimName": "m"}}),
        (
            {"claim": "m", "path": "one"},
            set(),
            {"persistentVolumeClaim": {"claimName": "m"}},
        ),
        (
            {"host_path": "/data"},
            set(),
            {"hostPath": {"path": "/data", "type": "DirectoryOrCreate"}},
        ),
        (
            {"host_path": "/data", "path": "one"},
            set(),
            {"hostPath": {"path": "/data", "type": "Directory"}},
        ),
    ],
)
def test_volumes(
    weights: dict[str, str], kinds: set[str], volume: dict[str, Any]
) -> None:
    found = all_of(unit("hf://org/one"), site(kubernetes={"weights": weights}))
    made = {each["kind"] for each in found} & {"Job", "PersistentVolumeClaim"}
    assert made == kinds
    (pod,) = pods_of(only(found, "Deployment"))
    (models,) = [each for each in pod["volumes"] if each["name"] == "models"]
    assert models == {"name": "models"} | volume
    assert ("initContainers" in pod) == ("path" not in weights)
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "models"]  # fmt: skip
    assert mount["readOnly"] is True


def test_the_hubs_token_is_a_reference() -> None:
    container = puller(
        unit("hf://org/one"), kubernetes={"weights": {"token_secret": "hub"}}
    )
    (token,) = [each for each in container["env"] if each["name"] == "HF_TOKEN"]
    assert token["valueFrom"] == {"secretKeyRef": {"name": "hub", "key": "token"}}


def test_what_cannot_be_pulled_is_a_sentence() -> None:
    with pytest.raises(UsageError, match="cannot pull modelscope://org/one") as caught:
        all_of(unit("modelscope://org/one"), site())
    assert "kubernetes.weights.path" in str(caught.value.fix)
    nameless = unit("hf://org/one")
    assert nameless.served is not None
    model = nameless.served.model.model_copy(update={"bytes": 0})
    served = nameless.served.model_copy(update={"model": model})
    with pytest.raises(UsageError, match="how large one is") as caught:
        all_of(nameless.model_copy(update={"served": served}), site())
    assert caught.value.where == "kubernetes.weights.size"
