"""The tables: lifetimes as the releases' wheels have them, names, nearest releases."""

from __future__ import annotations

import time

import pytest

from lemnos.engines.flags import lifetime, schema_for, versions
from lemnos.engines.flags.schema import ENGINES, spellings
from lemnos.errors import UsageError


def test_the_tables_hold_the_releases_that_were_asked_for() -> None:
    vllm, sglang = versions("vllm"), versions("sglang")
    assert len(vllm) >= 20 and (vllm[0], vllm[-1]) == ("0.8.5", "0.33.0")
    assert {"0.10.2", "0.11.0", "0.15.0", "0.17.1", "0.18.0", "0.26.0", "0.32.0"} <= {
        *vllm
    }
    assert len(sglang) >= 14 and (sglang[0], sglang[-1]) == ("0.4.6", "0.5.23")


# shared/facts/engine-flags.md. It has --guided-decoding-backend and --rope-scaling end with
# 0.10.2; the wheels of 0.11.0 (both) and 0.11.2 (the first) still add them.
@pytest.mark.parametrize(
    ("name", "last", "gone"),
    [
        ("--swap-space", "0.17.1", "0.18.0"),
        ("--disable-log-requests", "0.16.0", "0.17.0"),
        ("--enable-reasoning", "0.9.2", "0.10.0"),
        ("--num-scheduler-steps", "0.10.0", "0.10.1"),
        ("--guided-decoding-backend", "0.11.2", "0.12.0"),
        ("--rope-scaling", "0.11.0", "0.11.2"),
        ("--max-seq-len-to-capture", "0.10.2", "0.11.0"),
        ("--cuda-graph-sizes", "0.12.0", "0.13.0"),
        ("--task", "0.12.0", "0.13.0"),
        ("--calculate-kv-scales", "0.27.0", "0.28.0"),
    ],
)
def test_vllm_options_that_are_gone(name: str, last: str, gone: str) -> None:
    lived = lifetime("vllm", name)
    assert lived is not None
    assert (lived.last, lived.gone) == (last, gone)
    assert lived.instead
    assert schema_for("vllm", last).named(name)
    assert schema_for("vllm", gone).named(name) is None


def test_sglang_options_that_are_gone() -> None:
    for name, by in (
        ("--enable-ep-moe", "0.5.6"),
        ("--enable-deepep-moe", "0.5.6"),
        ("--cuda-graph-max-bs", "0.5.20"),
    ):
        lived = lifetime("sglang", name)
        assert lived is not None and lived.gone is not None and lived.instead
        assert schema_for("sglang", by).named(name) is None
    assert schema_for("sglang", "0.5.20").named("--cuda-graph-max-bs-decode")


def test_options_that_are_still_there_and_that_never_were() -> None:
    alive = lifetime("vllm", "--tensor_parallel_size")
    assert (
        alive is not None and alive.gone is None and alive.last == versions("vllm")[-1]
    )
    assert lifetime("vllm", "--expert-parallel-size") is None
    assert lifetime("sglang", "--expert-parallel-size") is not None


def test_disable_log_requests_was_deprecated_before_it_went() -> None:
    assert schema_for("vllm", "0.10.0").named("--disable-log-requests").deprecated == ""  # type: ignore[union-attr]
    assert schema_for("vllm", "0.10.1").named("--disable-log-requests").deprecated  # type: ignore[union-attr]


def test_names_in_every_spelling_of_vllm() -> None:
    schema = schema_for("vllm", "0.26.0")
    size = schema.named("--tensor-parallel-size")
    assert size is not None and size.names == ("--tensor-parallel-size", "-tp")
    assert size is schema.named("-tp") is schema.named("--tensor_parallel_size")
    assert (size.kind, size.default, size.twin) == ("int", 1, False)
    assert schema.named("--no-enable-prefix-caching") is schema.named(
        "--enable-prefix-caching"
    )
    assert schema.named("--nothing") is None


def test_sglang_reads_underscores_as_they_are() -> None:
    schema = schema_for("sglang", None)
    assert schema.named("--tp-size") is schema.named("--tensor-parallel-size")
    assert schema.named("--tp_size") is None


def test_prefixes() -> None:
    schema = schema_for("sglang", "0.5.23")
    assert [o.names[0] for o in schema.matching("--tp")] == ["--tensor-parallel-size"]
    assert len(schema.matching("--enable")) > 10
    assert schema.matching("-t") == schema.matching("--zzz") == ()


@pytest.mark.parametrize(
    ("asked", "used", "said"),
    [
        (None, "0.33.0", None),
        ("0.26.0", "0.26.0", None),
        ("v0.26", "0.26.0", None),
        ("0.26.0-cu130", "0.26.0", None),
        ("0.26.0+cpu", "0.26.0", None),
        ("0.26.9", "0.26.0", "0.26.9"),
        ("0.27.0rc1", "0.27.0", "0.27.0rc1"),
        ("0.99", "0.33.0", "0.99"),
        ("0.1", "0.8.5", "0.1"),
        ("nightly", "0.33.0", "nightly"),
    ],
)
def test_the_nearest_release_is_used_and_said(
    asked: str | None, used: str, said: str | None
) -> None:
    schema = schema_for("vllm", asked)
    assert (schema.version, schema.asked) == (used, said)


def test_post_releases_come_after() -> None:
    assert schema_for("sglang", "0.5.6.post2").version == "0.5.6"


def test_an_engine_that_is_not_known() -> None:
    with pytest.raises(
        UsageError, match="no flags are known for the engine 'vlm'"
    ) as caught:
        schema_for("vlm", None)
    assert "vllm" in caught.value.fix


def test_dynamo_workers_take_their_engines_options_but_not_its_servers() -> None:
    schema = schema_for("dynamo.vllm", "0.8.0")
    assert schema.carries["vllm"] == "0.12.0"
    assert schema_for("dynamo.sglang", "0.8.0").carries["sglang"] == "0.5.6.post2"
    assert schema.named("--tensor-parallel-size")
    assert schema.named("--api-key") is None
    assert schema_for("dynamo.frontend", None).named("--router-mode")


@pytest.mark.parametrize("engine", ENGINES)
def test_every_release_of_every_table_is_sound(engine: str) -> None:
    for version in versions(engine):
        schema = schema_for(engine, version)
        assert schema.asked is None
        names = [name for option in schema.options for name in option.names]
        assert len(names) == len(set(names))
        assert all(name.startswith("-") for name in names)
        for option in schema.options:
            assert option.names[0].startswith("--") or not any(
                name.startswith("--") for name in option.names
            )
            assert not (option.kind == "flag" and (option.choices or option.many))
            assert not option.twin or option.kind == "flag"
            assert option.many in ("", "?", "*", "+") or option.many.isdigit()
            assert set(spellings(option)) <= set(schema.spellings)


def test_replacements_name_options_that_exist() -> None:
    import re

    from lemnos.engines.flags.schema import _replacements

    for engine, entries in _replacements().items():
        newest = schema_for(engine, None)
        for name, instead in entries.items():
            lived = lifetime(engine, name)
            assert lived is not None and lived.gone is not None, name
            assert lived.instead == instead
            for other in re.findall(r"--[a-z][a-z0-9-]+", instead):
                assert newest.named(other) or lifetime(engine, other), (name, other)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_table_loads_fast(engine: str) -> None:
    from lemnos.engines.flags import schema

    schema._table.cache_clear()
    schema._schema.cache_clear()
    begun = time.process_time()
    schema_for(engine, None)
    assert time.process_time() - begun < 0.2  # 4 ms here; a loaded machine takes longer
