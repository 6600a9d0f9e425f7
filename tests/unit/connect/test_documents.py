"""Files of other tools: only the keys that are edited change, and all of it can be undone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lemnos.connect.documents import (
    GONE,
    Edits,
    changes,
    differences,
    edited,
    read,
    undone,
    value_at,
)
from lemnos.errors import LemnosError

YAML = """\
# At the head
server:   # eol
  host: "0.0.0.0"

llm:
  # About the providers
  providers:
    openrouter: {api_key_env: 'KEY', base_url: "https://a.example/v1/"}  # flow
  model_assignments:
    one:
      model: a/b  # why
      extra: x  # goes

    # About two
    two:
      extra: x
      model: a/b

  list:
    - 1
    -   2
# At the end
tail: [1, 2]
"""

EDITS: Edits = {
    ("llm", "providers", "openrouter", "base_url"): "http://here.local/v1/",
    ("llm", "model_assignments", "one", "model"): "m",
    ("llm", "model_assignments", "one", "extra"): GONE,
    ("llm", "model_assignments", "two", "extra"): GONE,
    ("llm", "model_assignments", "three", "model"): "m",
}


def test_yaml_keeps_comments_order_quotes_and_every_other_line() -> None:
    made = edited("yaml", YAML, EDITS, "f")
    assert made == YAML.replace(
        "https://a.example/v1/", "http://here.local/v1/"
    ).replace(
        "model: a/b  # why\n      extra: x  # goes\n", "model: m    # why\n"
    ).replace("      extra: x\n", "").replace(
        "      model: a/b\n\n  list",
        "      model: a/b\n\n    three:\n      model: m\n  list",
    )


@pytest.mark.parametrize(
    "text",
    [
        "a:\n- 1\n- b: 2\n  c: 3\nz: 1\n",
        "a:\n  - 1\n  - b: 2\n    c: 3\nz: 1\n",
        "a:\n    b:\n        c: 1\n    d:\n        - 1\nz: 1\n",
        "a:\r\n  b: 1  # x\r\nz: 1\r\n",
        "a: 1\nz: 1",
        "# head\n\n--- # x\na: 1\nz: 1\n",
        "%YAML 1.1\n---\na: yes\nz: 1\n",
        "---\na: yes\nb: 0o7\nc: 1_000\nz: 1\n",
        "a:   1   # odd\nb:   {x:  1,y: 2}\nc: [ 1,2 ]  \nz: 1\n",
        "a: |\n  text\n   more\nb: >-\n  folded\n  text\nz: 1\n",
        f"a: {'long ' * 60}\nz: 1\n",
        "é: 'ü'\nz: 1\n",
    ],
)
def test_yaml_of_any_style_stays_in_it(text: str) -> None:
    made = edited("yaml", text, {("z",): 2}, "f")
    assert made == text.replace("z: 1", "z: 2")


def test_an_edit_that_changes_nothing_changes_no_byte() -> None:
    odd = "a:    1   # odd\nb:   {x:  1}\n"
    assert edited("yaml", odd, {("a",): 1, ("c",): GONE}, "f") == odd
    odd = '{"a":1,\n\n "b": 2}'
    assert edited("json", odd, {("b",): 2, ("c", "d"): GONE}, "f") == odd


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("yaml", "a: [1\nb: 2\n", "f:2:"),
        ("yaml", "a: 1\na: 2\n", "f:2:1: is not valid YAML: found duplicate key"),
        ("yaml", "- 1\n", "f: is not a mapping of keys to values"),
        ("yaml", "just text", "f: is not a mapping of keys to values"),
        ("yaml", "a: *nobody\n", "f:1:4: is not valid YAML"),
        ("yaml", "a: 1\n---\nb: 1\n", "f:2:1: is not valid YAML"),
        ("yaml", "a: \x07\n", "f: is not valid YAML"),
        ("yaml", "[" * 400, "f:"),
        ("json", '{"a": 1,}', "f:1:"),
        ("json", "{\n // no\n}", "f:2:2: is not valid JSON"),
        ("json", "[1]", "f: is not a mapping of keys to values"),
        ("json", "[" * 100_000, "f: is nested too deeply"),
    ],
)
def test_a_broken_file_is_a_sentence(kind: Any, text: str, says: str) -> None:
    with pytest.raises(LemnosError) as caught:
        edited(kind, text, {("a",): 5}, "f")
    assert says in str(caught.value)


def test_an_alias_carries_no_edit_to_other_keys() -> None:
    shared = "one: &x {model: a}\ntwo: *x\n"
    with pytest.raises(LemnosError, match=r"'two.model' is shared with other keys"):
        edited("yaml", shared, {("one", "model"): "m"}, "f")
    merged = "base: &x {extra: a}\none:\n  <<: *x\n"
    with pytest.raises(LemnosError, match=r"'one.extra' is shared"):
        edited("yaml", merged, {("one", "extra"): GONE}, "f")
    numbered = "7: &x {model: a}\ntwo: *x\n"
    with pytest.raises(LemnosError, match=r"'7.model' is shared"):
        edited("yaml", numbered, {("two", "model"): "m"}, "f")
    alone = edited("yaml", merged, {("one", "model"): "m"}, "f")
    assert yaml.safe_load(alone)["one"] == {"extra": "a", "model": "m"}


def test_a_value_where_keys_should_be_is_a_sentence() -> None:
    with pytest.raises(LemnosError, match=r"'a.b' is not a mapping of keys"):
        edited("yaml", "a: {b: 1}\n", {("a", "b", "c"): 2}, "f")


def test_json_keeps_its_style() -> None:
    tabs = '{\n\t"é": 1,\n\t"env": {}\n}'
    assert edited("json", tabs, {("env", "X"): "1"}, "f") == (
        '{\n\t"é": 1,\n\t"env": {\n\t\t"X": "1"\n\t}\n}'
    )
    assert edited("json", "", {("a",): 1}, "f") == '{\n  "a": 1\n}\n'
    crlf = '{\r\n    "a": 1\r\n}\r\n'
    assert edited("json", crlf, {("a",): 2}, "f") == crlf.replace("1", "2")


def test_env_files_keep_every_other_line() -> None:
    text = "# mine\nA='x y'\nexport KEY=old # why\n\nKEY=older\nB=$A\n"
    made = edited("env", text, {("KEY",): "a'b c", ("NEW",): "1"}, "f")
    assert made == text.replace("KEY=older", "KEY='a'\"'\"'b c'") + "NEW=1\n"
    assert read("env", made, "f")["KEY"] == "a'b c"
    assert edited("env", text, {("KEY",): GONE}, "f") == "# mine\nA='x y'\n\nB=$A\n"
    assert edited("env", "A=1", {("B",): "2"}, "f") == "A=1\nB=2\n"


def test_secrets_are_not_shown() -> None:
    text = (
        '{"env": {"ANTHROPIC_AUTH_TOKEN": "sk-1", "max_tokens": 4, "key_env": "TOKEN"}}'
    )
    wanted: Edits = {
        ("env", "ANTHROPIC_AUTH_TOKEN"): GONE,
        ("env", "max_tokens"): 5,
        ("env", "api_key_env"): "NAME",
        ("apiKeyHelper",): "echo sk-2",
    }
    assert changes("json", text, edited("json", text, wanted, "f"), "f") == [
        "env.ANTHROPIC_AUTH_TOKEN: (not shown) -> (not there)",
        "env.max_tokens: 4 -> 5",
        "env.api_key_env: (not there) -> NAME",
        "apiKeyHelper: (not there) -> (not shown)",
    ]


def test_undo_gives_the_bytes_back() -> None:
    after = edited("yaml", YAML, EDITS, "f")
    assert undone("yaml", YAML, after, after, "f").text == YAML


def test_undo_keeps_what_others_wrote_since() -> None:
    after = edited("yaml", YAML, EDITS, "f")
    now = after.replace("0.0.0.0", "127.0.0.1").replace(
        "model: m    # why", "model: mine"
    )
    back = undone("yaml", YAML, after, now, "f")
    assert back.kept == (("llm", "model_assignments", "one", "model"),)
    got, want = yaml.safe_load(back.text), yaml.safe_load(YAML)
    want["server"]["host"] = "127.0.0.1"
    want["llm"]["model_assignments"]["one"]["model"] = "mine"
    assert got == want
    assert list(got["llm"]["model_assignments"]["two"]) == ["extra", "model"]
    assert "# About two" in back.text and "# At the end" in back.text


KEYS = st.sampled_from("abc")
TREES = st.recursive(
    st.one_of(st.integers(0, 3), st.text("xy ", max_size=3), st.booleans()),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(KEYS, TREES, max_size=3)


@given(DOCUMENTS, DOCUMENTS)
def test_differences_are_all_that_separates_two_documents(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    found = list(differences(old, new))
    assert bool(found) <= (old != new)
    assert len(found) == len(set(found))
    for path in found:
        assert value_at(old, path) != value_at(new, path)


@given(DOCUMENTS, st.dictionaries(KEYS, st.text("xy", max_size=2), min_size=1))
def test_what_others_add_survives_an_undo(
    document: dict[str, Any], ours: dict[str, str]
) -> None:
    """For any JSON file: connect, someone adds a key, undo; all but that key is as it was."""
    before = json.dumps(document)
    after = edited(
        "json", before, {("ours", key): value for key, value in ours.items()}, "f"
    )
    now = json.dumps(json.loads(after) | {"theirs": 1})
    back = undone("json", before, after, now, "f")
    assert json.loads(back.text) == document | {"theirs": 1}
    assert back.kept == ()
    assert undone("json", before, after, after, "f").text == before
