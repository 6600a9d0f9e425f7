"""Specs as files: whole or absent, and never anything but what was meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lemnos.errors import LemnosError, UsageError
from lemnos.importing import default_spec, import_config, write
from lemnos.spec.deployment import DeploymentSpec
from lemnos.spec.document import parse

NASTY = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["$(touch canary)", "`id`", "a\nb: c", "--x", "'\"", "%s", "#", "{{ 1 }}", "~"]
    ),
)
KEYS = ("name", "description", "job_script", "vram", "context", "partition", "time")


def test_files_are_not_overwritten_without_being_asked(tmp_path: Path) -> None:
    write({"a.yaml": "1\n", "b.yaml": "2\n"}, tmp_path / "new")
    write({"a.yaml": "1\n"}, tmp_path / "new")  # the same: nothing to lose
    with pytest.raises(UsageError, match=r"b\.yaml: is there already, and differs"):
        write({"c.yaml": "3\n", "b.yaml": "4\n"}, tmp_path / "new")
    assert sorted(os.listdir(tmp_path / "new")) == ["a.yaml", "b.yaml"]
    write({"b.yaml": "4\n"}, tmp_path / "new", force=True)
    assert (tmp_path / "new/b.yaml").read_text() == "4\n"


def test_all_files_or_none(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").mkdir()  # nothing replaces a directory
    with pytest.raises(LemnosError):
        write({"a.yaml": "1\n", "b.yaml": "2\n"}, tmp_path, force=True)
    assert not (tmp_path / "a.yaml").exists()


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(LemnosError, match="cannot be written"):
        write({"a.yaml": "1\n"}, tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("default: glmm\n", "there is no glmm.yaml.*\n.*'glm'"),
        ("default: ../x\n", "lower-case letters"),
        ("defualt: glm\n", "'default'"),
        ("", "not a mapping"),
    ],
)
def test_a_folder_file_that_is_wrong(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "glm.yaml").write_text("model: x\n")
    (tmp_path / "lemnos.yaml").write_text(text)
    with pytest.raises(UsageError, match=says):
        default_spec(tmp_path)


@given(values=st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS, NASTY)), key=NASTY)
@settings(max_examples=60)
def test_whatever_people_wrote_is_text_or_a_sentence(
    values: dict[str, str], key: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("nasty") / "config.yaml"
    model = {**values, "huggingface_id": "openai/gpt-oss-20b", "gpus": 1}
    path.write_text(yaml.safe_dump({"models": {key: model}}), encoding="utf-8")
    try:
        found = import_config(path, env={})
    except LemnosError as error:
        assert str(error)
        return
    (only,) = found.models
    if only.file is None:
        assert only.refused and only.refused["what"]
        return
    text = found.files[only.file]
    made = parse(text, DeploymentSpec, where="x")
    assert made.model.source == "hf://openai/gpt-oss-20b"
    assert made.model.served_name == (values.get("name") or None)
    body = text.split("\nname: ")[0]
    assert all(line.startswith("#") for line in body.splitlines())
