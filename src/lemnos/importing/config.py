"""config.yaml of the vLLM-on-Slurm scripts that lemnos imports: its keys, and where each is written.

One family of scripts: a ``models`` section with a Hugging Face id, GPUs and nodes each, and
sections ``slurm``, ``cache``, ``paths``, ``vllm``, ``distributed`` and ``nccl`` for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from lemnos.errors import LemnosError, UsageError, near
from lemnos.spec.base import Value
from lemnos.spec.document import parse
from lemnos.spec.rooms import Line, Word

HOW = "models: {NAME: {huggingface_id: org/name, gpus: 4, nodes: 1}}"


def _no_flag(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("is yes or no, and a number is wanted")
    return value


def _as_text(value: object) -> object:
    """Numbers that stand where words do: ``partition: 2024``, ``context: 32768``."""
    return str(value) if type(value) in (int, float) else value


Count = Annotated[int, BeforeValidator(_no_flag), Field(ge=1, le=1_000_000_000)]
Few = Annotated[int, BeforeValidator(_no_flag), Field(ge=1, le=4096)]
Share = Annotated[float, BeforeValidator(_no_flag), Field(gt=0, le=1)]
Text = Annotated[Line, BeforeValidator(_as_text)]
Name = Annotated[Word, BeforeValidator(_as_text)]


class Section(Value):
    """Keys that are not known are kept, to be told; keys without a value are not given."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            str(key): value for key, value in data.items() if value not in (None, "")
        }


class SlurmSection(Section):
    """What each job asks for."""

    partition: Name | None = None
    account: Name | None = None
    time_default: Text | None = None
    cpus_per_task: Few | None = None
    mem_per_gpu: Name | None = None
    qos: Name | None = None
    constraint: Name | None = None
    reservation: Name | None = None
    nodelist: Name | None = None
    exclude: Name | None = None
    exclusive: bool | None = None


class CacheSection(Section):
    """Where what can be made again is kept."""

    xdg_cache_home: Text | None = None
    triton_cache_dir: Text | None = None
    huggingface_cache: Text | None = None


class PathsSection(Section):
    """Where the scripts find their things."""

    venv_dir: Text | None = None


class Served(Section):
    """What vLLM is told; a model may have its own."""

    gpu_memory_utilization: Share | None = None
    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    dtype: Name | None = None
    kv_cache_dtype: Name | None = None
    enforce_eager: bool | None = None
    enable_expert_parallel: bool | None = None
    seed: Annotated[int, BeforeValidator(_no_flag), Field(ge=0, lt=2**31)] | None = None


class VllmSection(Served):
    """What vLLM is told, for all models; other keys are looked for among its flags."""

    max_model_len_default: Count | None = None
    max_model_len: Count | None = None


class DistributedSection(Section):
    """How torchrun's ranks found each other."""

    rdzv_backend: Text | None = None
    rdzv_timeout: (
        Annotated[float, BeforeValidator(_no_flag), Field(gt=0, le=1e6)] | None
    ) = None
    master_port_base: Annotated[int, BeforeValidator(_no_flag)] | None = None


class NcclSection(Section):
    """NCCL's variables, under names of the scripts' own."""

    socket_ifname: Name | None = None
    blocksize: Count | None = None
    ib_timeout: Annotated[int, BeforeValidator(_no_flag), Field(ge=0)] | None = None
    debug: Name | None = None


class OldModel(Served):
    """One of the models."""

    name: Text | None = None
    huggingface_id: Text | None = None
    job_script: Text | None = None
    description: str | None = None
    port: Annotated[int, BeforeValidator(_no_flag), Field(ge=1, le=65535)] | None = None
    gpus: Few | None = None
    nodes: Few | None = None
    quantization: Name | None = None
    vision: bool | None = None
    vram: Text | None = None
    context: Text | None = None
    max_model_len: Count | None = None
    time: Text | None = None
    partition: Name | None = None
    account: Name | None = None
    qos: Name | None = None


def _by_name(models: object) -> object:
    """``70: ...`` is a name too; a model of which nothing is said is one."""
    if not isinstance(models, dict):
        raise ValueError(f"needs a name for each model: {HOW}")
    return {str(name): {} if m is None else m for name, m in models.items()}


class OldConfig(Section):
    """The whole of config.yaml."""

    active_model: Text | None = None
    slurm: SlurmSection = SlurmSection()
    cache: CacheSection = CacheSection()
    paths: PathsSection = PathsSection()
    vllm: VllmSection = VllmSection()
    distributed: DistributedSection = DistributedSection()
    nccl: NcclSection = NcclSection()
    models: Annotated[dict[str, OldModel], BeforeValidator(_by_name)]


@dataclass(frozen=True)
class Written:
    """The configuration, and the text that it was read from."""

    path: str
    config: OldConfig
    root: yaml.Node

    def line(self, *keys: str) -> int:
        """The line (from 1) of the deepest of ``keys`` that the text has, anchors followed."""
        return max(1, self._found(*keys)[0])

    def given(self, *keys: str) -> bool:
        """Whether the text has the key."""
        return self._found(*keys)[1] is not None

    def raw(self, *keys: str) -> str | None:
        """A scalar as it was typed: YAML reads 24:00:00 as a number. None: it is not there."""
        node = self._found(*keys)[1]
        return str(node.value) if isinstance(node, yaml.ScalarNode) else None

    def _found(self, *keys: str) -> tuple[int, yaml.Node | None]:
        line, node = 0, self.root
        for key in keys:
            pair = next(
                (p for p in _pairs(node, depth=8) if p[0].value == key),
                None,
            )
            if pair is None:
                return line, None
            line, node = pair[0].start_mark.line + 1, pair[1]
        return line, node


def read_config(path: Path) -> Written:
    """The configuration at ``path``. Raises UsageError with file, line and key, LemnosError where
    it cannot be read."""
    where = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError("is not UTF-8 text", where=where) from None
    except OSError as error:
        raise LemnosError(f"cannot be read ({error.strerror})", where=where) from None
    root = _root(text)
    if isinstance(root, yaml.MappingNode):
        found = {str(key.value): value for key, value in _pairs(root, depth=8)}
        if "models" not in found:
            raise _no_models(list(found), where)
        if not found["models"].value:
            line = found["models"].start_mark.line + 1
            raise UsageError("models: is empty", where=f"{where}:{line}", fix=HOW)
    elif root is not _BROKEN:
        what = "is empty" if root is None else "is not a mapping of keys to values"
        raise UsageError(what, where=where, fix=f"it needs models, such as {HOW}")
    config = parse(text, OldConfig, where=where)
    assert isinstance(root, yaml.Node)
    return Written(where, config, root)


def _no_models(keys: list[str], where: str) -> UsageError:
    known = list(OldConfig.model_fields)
    meant = next((key for key in keys if "'models'" in near(key, known, most=1)), None)
    return UsageError(
        "has no 'models': it is no config.yaml that lemnos can import",
        where=where,
        fix=f"did you mean 'models' by '{meant}'?"
        if meant
        else f"it needs models, such as {HOW}",
    )


_BROKEN = object()


def _root(text: str) -> object:
    """The document's node, None for an empty one; what cannot be read is explained by ``parse``."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return _BROKEN


def _pairs(
    node: yaml.Node | None, depth: int
) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    """Keys and values of a mapping, its own before those that ``<<`` brings."""
    if not isinstance(node, yaml.MappingNode) or not depth:
        return
    brought: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            brought += value.value if isinstance(value, yaml.SequenceNode) else [value]
        elif isinstance(key, yaml.ScalarNode):
            yield key, value
    for each in brought:
        yield from _pairs(each, depth - 1)


SECTIONS: Mapping[str, type[Section]] = {
    "slurm": SlurmSection,
    "cache": CacheSection,
    "paths": PathsSection,
    "vllm": VllmSection,
    "distributed": DistributedSection,
    "nccl": NcclSection,
    "a model": OldModel,
}
"""By the name that messages give them."""


def unknown_keys(
    config: OldConfig,
) -> Iterator[tuple[tuple[str, ...], type[Section]]]:
    """(keys, the section's class) of each key that the scripts never had."""
    sections: dict[tuple[str, ...], Section] = {(): config}
    sections |= {(name,): getattr(config, name) for name in list(SECTIONS)[:-1]}
    sections |= {("models", name): model for name, model in config.models.items()}
    for keys, section in sections.items():
        for key in section.model_extra or {}:
            yield (*keys, key), type(section)
