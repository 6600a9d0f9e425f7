"""Pulling from a hub: huggingface_hub's real client against a small hub with faults."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lemnos import paths
from lemnos.errors import LemnosError, UsageError
from lemnos.models import download, store, verify
from lemnos.models.progress import Silent
from lemnos.models.pull import pull
from lemnos.spec.deployment import ModelSpec
from lemnos.spec.facts import LocalModel
from tests import tiny_models
from tests.hub import COMMIT, Hub, serving, sha256
from tests.waiting import until

BIG = tiny_models.gguf(tensors={"w": 400_000})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    repositories = {
        "org/one": {"one.Q4.gguf": BIG, "README.md": b"# one"},
        "org/many": {"a.Q4.gguf": tiny_models.gguf(), "a.Q8.gguf": BIG},
        "org/split": {
            f"s-{n:05}-of-00002.gguf": tiny_models.gguf(tensors={f"w{n}": 192})
            for n in (1, 2)
        },
        "org/safe": tiny_models.safetensors_model(),
        "org/none": {"README.md": b"nothing else"},
        "org/evil": {"../../evil.safetensors": b"x"},
    }
    monkeypatch.setattr("lemnos.models.download.time.sleep", lambda _: None)
    with serving(Hub(repositories)) as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("MODELSCOPE_DOMAIN", made.url)
        yield made


def get(source: str, **more: str) -> LocalModel:
    return pull(ModelSpec.model_validate({"source": source, **more}), Silent())


def leftovers() -> list[str]:
    """What is neither a model's file nor its manifest."""
    root = paths.models_dir()
    return [
        str(p.relative_to(root))
        for p in root.rglob("*")
        if p.suffix in (".part", ".partial", ".lease")
    ]


@pytest.mark.parametrize("scheme", ["hf", "modelscope"])
def test_a_pulled_model_is_whole_and_leaves_nothing_else(hub: Hub, scheme: str) -> None:
    model = get(f"{scheme}://org/one")
    assert Path(model.path).read_bytes() == BIG
    assert (model.name, model.format, model.bytes) == ("one.Q4", "gguf", len(BIG))
    assert model.sha256 == sha256(BIG)
    assert leftovers() == []
    requests = len(hub.requests)
    assert get(f"{scheme}://org/one") == model
    assert len(hub.requests) == requests
    assert [name for name, _ in hub.requests] == ["one.Q4.gguf"]


def test_safetensors_come_without_what_nobody_needs(hub: Hub) -> None:
    model = get("org/safe", revision="main")
    assert (model.name, model.format, model.revision) == ("safe", "safetensors", COMMIT)
    names = sorted(p.name for p in Path(model.path).rglob("*"))
    assert names == [
        "README.md",
        "config.json",
        "lemnos.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


def test_of_several_ggufs_one_has_to_be_named(hub: Hub) -> None:
    with pytest.raises(UsageError, match="has 2 GGUF files") as error:
        get("org/many")
    assert "a.Q8.gguf" in error.value.fix
    assert get("org/many", file="a.Q8.gguf").bytes == len(BIG)
    assert get("hf://org/many/a.Q4.gguf").path.endswith("a.Q4.gguf")
    assert get("org/many", file="a.Q8.gguf").bytes == len(BIG)
    with pytest.raises(UsageError, match="Did you mean 'a.Q8.gguf'"):
        get("org/many", file="a.Q9.gguf")


def test_a_split_gguf_comes_with_all_its_parts(hub: Hub) -> None:
    model = get("org/split")
    assert model.path.endswith("s-00001-of-00002.gguf")
    assert Path(model.path).with_name("s-00002-of-00002.gguf").exists()
    del hub.repositories["org/split"]["s-00002-of-00002.gguf"]
    shutil.rmtree(paths.models_dir())
    with pytest.raises(LemnosError, match="lacks s-00002-of-00002.gguf"):
        get("org/split")


def test_cuts_are_resumed_at_the_byte(hub: Hub) -> None:
    hub.cuts = [1, 999, 500_000]
    assert Path(get("org/one").path).read_bytes() == BIG
    ranges = [r for _, r in hub.requests]
    assert ranges == ["", "bytes=1-", "bytes=1000-", "bytes=501000-"]


def test_a_server_without_ranges_starts_again(hub: Hub) -> None:
    hub.ranges = False
    hub.cuts = [600_000]
    assert Path(get("org/one").path).read_bytes() == BIG


def test_a_connection_that_never_gives_a_byte_is_given_up(hub: Hub) -> None:
    hub.cuts = [0] * download.ATTEMPTS
    with pytest.raises(LemnosError, match="broke off 6 times in a row"):
        get("org/one")
    assert Path(get("org/one").path).read_bytes() == BIG


def test_wrong_bytes_are_fetched_again_once_and_then_refused(hub: Hub) -> None:
    hub.wrong = 1
    assert Path(get("org/one").path).read_bytes() == BIG
    shutil.rmtree(paths.models_dir())
    hub.wrong = 2
    with pytest.raises(LemnosError, match="wrong content twice"):
        get("org/one")
    assert not store.list_models()
    assert not [p for p in paths.models_dir().rglob("*") if p.suffix == ".part"]


def test_wrong_bytes_in_a_small_file_are_found_too(hub: Hub) -> None:
    hub.wrong = 99
    with pytest.raises(LemnosError, match="wrong content twice"):
        get("org/safe")


def test_busy_hubs_are_waited_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("lemnos.models.download.time.sleep", waits.append)
    hub.statuses, hub.retry_after = [429, 503], "7"
    assert Path(get("org/one").path).read_bytes() == BIG
    assert waits == [7.0, 7.0]


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "HF_TOKEN"), (403, "licence"), (404, "gone"), (418, "later")],
)
def test_refusals_of_a_file_say_what_to_do(hub: Hub, status: int, says: str) -> None:
    hub.statuses = [status]
    with pytest.raises(LemnosError, match=f"answered {status}") as error:
        get("org/one")
    assert says in error.value.fix


def test_tokens_are_sent_and_missed(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    with pytest.raises(UsageError, match="no such model, or it is private") as error:
        get("org/one")
    assert "HF_TOKEN" in error.value.fix
    with pytest.raises(UsageError, match="no such model, or it is private"):
        get("modelscope://org/one")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "hf_secret")
    assert get("org/one").bytes == len(BIG)
    assert get("modelscope://org/one").bytes == len(BIG)
    kept = [p.read_text() for p in paths.models_dir().rglob("lemnos.json")]
    assert "hf_secret" not in "".join(kept)


def test_gated_unknown_and_odd_repositories(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="no such model"):
        get("org/missing")
    with pytest.raises(UsageError, match="no such model"):
        get("modelscope://org/missing")
    with pytest.raises(UsageError, match="has no revision 'v9'"):
        get("org/one", revision="v9")
    with pytest.raises(LemnosError, match="neither safetensors nor GGUF"):
        get("org/none")
    with pytest.raises(LemnosError, match="names a file '../../evil"):
        get("org/evil")
    hub.gated = True
    with pytest.raises(LemnosError, match="gated|forbids"):
        get("org/one")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(LemnosError, match="cannot be reached"):
        get("org/one")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", "http://127.0.0.1:9")
    with pytest.raises(LemnosError, match="cannot be reached"):
        get("modelscope://org/one")


def test_too_little_disk_is_said_before_the_first_byte(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        LemnosError, match=r"not enough disk: 0\.00 GB are needed, 0\.00 GB free"
    ):
        get("org/one")
    assert hub.requests == []


def test_a_disk_that_fills_up_keeps_what_arrived(hub: Hub) -> None:
    code = PULL + (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "import errno, lemnos.models.download as d\n"
        "d.errno.ENOSPC = errno.EFBIG\n"  # the limit's errno stands for a full disk's
        "go()\n"
    )
    done = run_python(code)
    assert "the disk is full" in done.stderr
    (part,) = paths.models_dir().rglob("*.part")
    have = part.stat().st_size
    assert 0 < have <= 500_000
    assert Path(get("org/one").path).read_bytes() == BIG
    assert hub.requests[-1][1] == f"bytes={have}-"


PULL = (
    "from lemnos.models.pull import pull\n"
    "from lemnos.models.progress import Silent\n"
    "from lemnos.spec.deployment import ModelSpec\n"
    "def go(): print(pull(ModelSpec(source='org/one'), Silent()).path)\n"
)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )


def test_a_pull_killed_half_way_goes_on_there(hub: Hub) -> None:
    hub.held = threading.Event()
    child = subprocess.Popen(
        [sys.executable, "-c", PULL + "go()"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with child:
        assert hub.half_sent.wait(60)
        (part,) = until(lambda: list(paths.models_dir().rglob("*.part")))
        until(lambda: part.stat().st_size > 0)
        child.send_signal(signal.SIGKILL)
    assert not store.list_models()
    hub.held.set()
    hub.held = None
    have = part.stat().st_size
    assert Path(get("org/one").path).read_bytes() == BIG
    assert hub.requests[-1] == ("one.Q4.gguf", f"bytes={have}-")
    assert leftovers() == []


def test_two_pulls_at_once_are_one_download(hub: Hub) -> None:
    hub.held = threading.Event()
    command = [sys.executable, "-c", PULL + "go()"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert hub.half_sent.wait(60)
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    until(lambda: second.poll() is None)
    hub.held.set()
    outputs = {process.communicate(timeout=60)[0] for process in (first, second)}
    assert len(outputs) == 1
    assert [name for name, _ in hub.requests] == ["one.Q4.gguf"]


def test_a_copy_in_the_hub_cache_is_used_in_place(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(os.environ["HF_HOME"]) / "hub" / "models--org--one"
    blob = root / "blobs" / sha256(BIG)
    snapshot = root / "snapshots" / COMMIT
    for directory in (blob.parent, snapshot, root / "refs"):
        directory.mkdir(parents=True)
    blob.write_bytes(BIG)
    (snapshot / "one.Q4.gguf").symlink_to(blob)
    (root / "refs" / "main").write_text(COMMIT)
    model = get("org/one")
    assert model.path == str(snapshot / "one.Q4.gguf")
    assert hub.requests == [] and store.list_models() == []
    # the hash was read once, and is remembered until the file changes
    monkeypatch.setattr(verify, "hash_of", lambda *_: pytest.fail("hashed again"))
    assert get("org/one").path == model.path
    monkeypatch.undo()


def test_a_damaged_copy_in_the_hub_cache_is_not_used(hub: Hub) -> None:
    root = Path(os.environ["HF_HOME"]) / "hub" / "models--org--one"
    blob = root / "blobs" / sha256(BIG)
    snapshot = root / "snapshots" / COMMIT
    for directory in (blob.parent, snapshot):
        directory.mkdir(parents=True)
    blob.write_bytes(BIG[:-1] + b"?")
    (snapshot / "one.Q4.gguf").symlink_to(blob)
    model = get("org/one", revision=COMMIT)
    assert model.path.startswith(str(paths.models_dir()))


def test_a_shared_directory_is_used_in_place(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared" / "org" / "safe"
    shared.mkdir(parents=True)
    for name, data in tiny_models.safetensors_model().items():
        if "/" not in name:
            (shared / name).write_bytes(data)
    monkeypatch.setenv("LEMNOS_MODEL_PATH", f"/nowhere:{tmp_path / 'shared'}")
    assert get("org/safe").path == str(shared)
    (shared / "model-00001-of-00002.safetensors").unlink()
    assert get("org/safe").path.startswith(str(paths.models_dir()))


def test_paths_are_used_where_they_are(tmp_path: Path) -> None:
    path = tmp_path / "my.gguf"
    path.write_bytes(BIG)
    assert get(str(path)).path == str(path)
    assert get(f"file://{path}", sha256=sha256(BIG)).name == "my"
    assert get(str(tmp_path)).path == str(path)
    assert get(str(tmp_path), file="my.gguf").path == str(path)
    with pytest.raises(LemnosError, match="wrong content"):
        get(str(path), sha256="0" * 64)
    with pytest.raises(UsageError, match="does not exist"):
        get(str(tmp_path / "other.gguf"))
    with pytest.raises(LemnosError, match="0 GGUF files"):
        get(str(_empty(tmp_path)))
    path.write_bytes(BIG[:100_000])
    with pytest.raises(LemnosError, match="is cut off"):
        get(str(path))
    path.write_bytes(b"text")
    with pytest.raises(LemnosError, match="is not a GGUF file"):
        get(str(path))


def _empty(tmp_path: Path) -> Path:
    directory = tmp_path / "empty"
    directory.mkdir()
    return directory


def test_the_store_lists_verifies_prunes_and_removes(hub: Hub) -> None:
    model = get("org/one")
    assert store.list_models() == [model]
    assert store.find("one.Q4") == store.find("hf://org/one") == model
    assert store.check(model) == 1
    path = Path(model.path)
    path.write_bytes(BIG[:-1] + b"?")
    with pytest.raises(LemnosError, match="wrong content"):
        store.check(model)
    path.write_bytes(BIG[:-1])
    assert store.list_models() == [], "a file of the wrong size counts as none"
    path.write_bytes(BIG)
    with pytest.raises(UsageError, match="no model 'one.Q5'.*\n.*Did you mean"):
        store.find("one.Q5")
    interrupted = path.parent.with_name("other.partial")
    interrupted.mkdir()
    (interrupted / "x.part").write_bytes(b"123")
    removed = store.prune({model.path}, models=True)
    assert removed == (["hf/org/one/other.partial"], 3)
    assert not interrupted.exists()
    assert store.list_models() == [model]
    store.prune(set(), models=True)
    assert store.list_models() == []
    assert list(paths.models_dir().iterdir()) == []


def test_a_download_that_goes_on_is_not_pruned(hub: Hub) -> None:
    hub.held = threading.Event()
    child = subprocess.Popen(
        [sys.executable, "-c", PULL + "go()"], stdout=subprocess.DEVNULL
    )
    with child:
        assert hub.half_sent.wait(60)
        assert store.prune(set(), models=True) == ([], 0)
        hub.held.set()
    assert child.returncode == 0
