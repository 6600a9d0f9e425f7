"""Written documents: errors with file, line and key; nothing else ever."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lemnos.errors import LemnosError, UsageError, near
from lemnos.spec.deployment import DEFAULT_PORT, DeploymentSpec
from lemnos.spec.document import load, parse, validated
from lemnos.spec.status import Phase
from tests import samples


def refused(text: str) -> str:
    with pytest.raises(UsageError) as error:
        parse(text, DeploymentSpec, where="d.yaml")
    return str(error.value)


def test_a_whole_document() -> None:
    spec = parse(
        "name: x\nmodel: m\nworkload: {context: 2048}\nendpoint: {port: 8000}\n",
        DeploymentSpec,
        where="d.yaml",
    )
    assert (spec.name, spec.model.source, spec.endpoint.port) == ("x", "m", 8000)
    assert spec.workload.context == 2048 and spec.endpoint.is_loopback


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model: a\nnmae: b\n", "d.yaml:2: nmae: unknown key 'nmae'. Did you mean 'name'?"),
        ("model: a\nworkload:\n  contxt: 3\n", "d.yaml:3: workload.contxt: unknown key 'contxt'. Did you mean 'context'"),
        ("model: a\nzzzzzzz: 1\n", "Known keys: version, name, model"),
        ("model: a\nworkload:\n  context: lots\n", "d.yaml:3: workload.context: Input should be a valid integer"),
        ("name: x\n", "d.yaml:1: model: Field required"),
        ("model: a\nname: 'A B'\n", "d.yaml:2: name: use 1 to 53 lower-case"),
        ("model: a\nendpoint: {host: 0.0.0.0}\n", "d.yaml:2: endpoint: host 0.0.0.0 can be reached by others"),
        ("version: 2\nmodel: a\n", "d.yaml:1: is written for a newer lemnos (version 2"),
        ("model: [\n", "d.yaml:2:1: is not valid YAML"),
        ("- a\n", "is not a mapping"),
        ("", "is not a mapping"),
        ("model: a\nengine: vlm\n", "d.yaml:2: engine: Input should be 'llamacpp'"),
        ("model: {source: a, sha256: xyz}\n", "d.yaml:1: model.sha256"),
        ("model: a\nmodel: b\n", "d.yaml:2:1: is not valid YAML: 'model' is given twice"),
        ("model: a\nworkload:\n", "d.yaml:2: workload: needs keys and values of its own"),
        ("model: 2026-13-45\n", "d.yaml:1:8: is not valid YAML: '2026-13-45' cannot be read as timestamp"),
        ("model: a\nversion: 0x_\n", "d.yaml:2:10: is not valid YAML: '0x_' cannot be read as int"),
        ("model: !!bool maybe\n", "d.yaml:1:8: is not valid YAML: 'maybe' cannot be read as bool"),
        ("model: !!timestamp q\n", "cannot be read as timestamp"),
        ("model: !!int\n", "d.yaml:1:8: is not valid YAML: '' cannot be read as int"),
        ("model: " + "1" * 5000, "cannot be read as int"),
        ("model: a\nversion: 0x" + "f" * 5000, "d.yaml:2: version: Input should be less"),
        ('"\\ud800": 1', "d.yaml:1:1: is not valid YAML"),
        ("[" * 5000, "d.yaml: is nested too deeply"),
        ("model: &a [*a]\n", "d.yaml:1: model: needs keys"),
        ("model: a\0", "d.yaml: is not valid YAML: unacceptable character"),
        ("? {a: 1}\n: b", "found unhashable key"),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_key(text: str, says: str) -> None:
    assert says in refused(text)


def test_every_error_is_told_at_once() -> None:
    said = refused("model: a\nworkload:\n  concurrency: 0\n  context: 1\n")
    assert "d.yaml:3: workload.concurrency" in said
    assert "d.yaml:4: workload.context" in said


def test_lists_have_lines_too() -> None:
    from lemnos.spec.targets import TargetTable

    with pytest.raises(UsageError) as error:
        parse("revision: 1\nroutes:\n- model: a\n- modle: b\n", TargetTable, where="t")
    assert "t:4: routes.1.modle: unknown key 'modle'. Did you mean 'model'?" in str(
        error.value
    )


def test_flags_are_explained_without_a_file() -> None:
    with pytest.raises(UsageError) as error:
        validated(DeploymentSpec, {"model": "a", "rollout": "beside"})
    assert str(error.value).startswith("rollout: Input should be 'auto'")


def test_on_is_a_key_and_not_a_boolean(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("model: m\non: slurm\nslurm: {exclusive: true, requeue: off}\n")
    spec = load(path, DeploymentSpec)
    assert (spec.on, spec.slurm.exclusive, spec.slurm.requeue) == ("slurm", True, False)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(LemnosError, match="cannot be read"):
        load(tmp_path / "none.yaml", DeploymentSpec)
    odd = tmp_path / "odd.yaml"
    odd.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not UTF-8"):
        load(odd, DeploymentSpec)
    good = tmp_path / "good.yaml"
    good.write_text("model: m")
    assert load(good, DeploymentSpec).model.source == "m"


def test_merged_keys_may_be_given_again() -> None:
    text = "model: &m {source: a, revision: b}\nworkload: {}\nname: x\n"
    assert parse(text, DeploymentSpec, where="d").model.revision == "b"
    text = "model:\n  <<: {source: a, revision: b}\n  revision: c\n"
    assert parse(text, DeploymentSpec, where="d").model.revision == "c"


SYNTAX = st.sampled_from(
    [*"[]{}:,-?!&*|>'\"\\#%@\n \t", "!!int ", "!!bool ", "!!timestamp ", "<<: ", "&a ", "*a"]
    + ["model", "version", ": ", "0x", "2026-13-45", ".inf", "null", "\\ud800", "- "]
)  # fmt: skip


@settings(deadline=None)  # the machine may be busy
@given(st.lists(SYNTAX, max_size=25).map("".join))
def test_any_yaml_is_a_spec_or_a_sentence(text: str) -> None:
    with contextlib.suppress(LemnosError):
        parse(text, DeploymentSpec, where="d.yaml")


@settings(deadline=None)  # the machine may be busy
@given(st.text(max_size=200))
def test_any_text_is_a_spec_or_a_sentence(text: str) -> None:
    with contextlib.suppress(LemnosError):
        parse(text, DeploymentSpec, where="d.yaml")


KEYS = st.sampled_from(
    ["model", "name", "version", "workload", "endpoint", "restart", "x"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(deadline=None)  # the machine may be busy
@given(st.dictionaries(KEYS, VALUES))
def test_any_document_is_a_spec_or_a_sentence(data: dict[str, object]) -> None:
    text = yaml.safe_dump(data)
    with contextlib.suppress(LemnosError):
        parse(text, DeploymentSpec, where="d.yaml")


def test_what_travels_comes_back_from_json() -> None:
    plan = samples.plan(workload={"context": 512}, endpoint={"port": DEFAULT_PORT})
    assert type(plan).model_validate_json(plan.model_dump_json()) == plan
    assert plan.served_name == "smollm2-135m-instruct"


def test_phases_and_hosts() -> None:
    assert [phase for phase in Phase if phase.over] == [Phase.stopped, Phase.failed]
    for host, loopback in (("localhost", True), ("::1", True), ("127.0.0.2", True)):
        assert samples.spec(endpoint={"host": host}).endpoint.is_loopback == loopback


def test_near_words() -> None:
    assert near("contxt", ["context", "name"]) == "Did you mean 'context'?"
    assert near("Slurm", ["slurm", "slurmd"]) == "Did you mean 'slurm' or 'slurmd'?"
    assert near("qqq", ["context"]) == ""


def test_errors_are_what_where_and_fix() -> None:
    error = LemnosError("broke", where="here:3", fix="mend it")
    assert str(error) == "here:3: broke\n  -> mend it"
    assert error.as_dict() == {"what": "broke", "where": "here:3", "fix": "mend it"}
    assert str(UsageError("no")) == "no" and UsageError("no").exit_code == 2
