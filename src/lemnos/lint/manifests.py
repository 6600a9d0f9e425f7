"""Engines' commands in compose files, Kubernetes manifests and other YAML, with their places. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import yaml

from lemnos.lint.find import Found, Reading, image_of, search, started
from lemnos.lint.words import UNKNOWN, Word, aligned

_VARIABLE = re.compile(r"\$\((\w+)\)|\$\{(\w+)(?::?-([^}]*))?\}")
_GPU_KEYS = ("nvidia.com/gpu", "amd.com/gpu")


@dataclass
class Manifest:
    """What a YAML text starts, and its ``nccl:`` settings."""

    reading: Reading = field(default_factory=Reading)
    settings: list[tuple[str, Word]] = field(default_factory=list)
    trouble: tuple[str, int] | None = None


def read_manifest(text: str, offset: int = 0) -> Manifest:
    """Read every document of ``text``, which begins at ``offset`` of the whole.

    What is no YAML leaves a sentence in ``trouble``.
    """
    found = Manifest()
    loader = yaml.SafeLoader(text) if _light(text) else None
    if loader is None:
        found.trouble = ("has characters that YAML does not allow", offset)
        return found
    try:
        while loader.check_node():
            for path, each in _walk(loader.get_node(), (), 0):
                _look(path, each, text, offset, found)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "is nested too deeply"
        found.trouble = (f"is no YAML: {problem}", offset + (mark.index if mark else 0))
    return found


def manifest_keys(node: yaml.Node) -> dict[str, yaml.Node]:
    """A mapping's values by key; empty for what is none."""
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {k.value: v for k, v in node.value if isinstance(k, yaml.ScalarNode)}


def _light(text: str) -> bool:
    return not yaml.reader.Reader.NON_PRINTABLE.search(text)


def _walk(
    node: yaml.Node | None, path: tuple[str, ...], depth: int
) -> Iterator[tuple[tuple[str, ...], yaml.Node]]:
    """Every mapping with the keys that lead to it. Aliases are followed where they stand."""
    if depth > 40:
        return
    if isinstance(node, yaml.MappingNode):
        yield path, node
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            yield from _walk(value, (*path, str(name)), depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _walk(value, path, depth + 1)


def _look(
    path: tuple[str, ...], node: yaml.Node, text: str, offset: int, found: Manifest
) -> None:
    keys = manifest_keys(node)
    if path and path[-1].lower() == "nccl":
        found.settings += [
            (key, _scalar(value, text, offset))
            for key, value in keys.items()
            if isinstance(value, yaml.ScalarNode)
        ]
    if not {"command", "args", "entrypoint"} & set(keys):
        return
    env = _environment(keys, text, offset)
    image = keys.get("image")
    engine, version = (
        image_of(image.value) if isinstance(image, yaml.ScalarNode) else (None, None)
    )
    words: list[Word] = []
    for name in ("entrypoint", "command", "args"):
        value = keys.get(name)
        if isinstance(value, yaml.ScalarNode):
            _text_command(
                value,
                text,
                offset,
                env,
                version,
                engine,
                found,
                bool(words),
                _gpus(keys),
            )
        elif isinstance(value, yaml.SequenceNode):
            words += [
                _filled(_scalar(item, text, offset), env)
                for item in value.value
                if isinstance(item, yaml.ScalarNode)
            ]
    if not words:
        return
    reading = started(words, env)
    own = "entrypoint" in keys or (
        image is not None and "args" in keys and "command" in keys
    )
    if not reading.found and engine == "vllm" and not own:
        first = words[0]
        reading.found.append(Found("vllm", first, tuple(words), env, version))
    for one in reading.found:
        mine = version if engine and one.engine.startswith(engine) else None
        one = replace(one, version=one.version or mine, listed=_listed(one, words))
        found.reading.found.append(replace(one, contained=True, gpus=_gpus(keys)))
    found.reading.runs += reading.runs
    found.reading.troubles += reading.troubles


def _listed(found: Found, words: list[Word]) -> bool:
    return bool(found.words) and found.words[0] in words


def _text_command(
    value: yaml.ScalarNode,
    text: str,
    offset: int,
    env: Mapping[str, Word],
    version: str | None,
    engine: str | None,
    found: Manifest,
    after: bool,
    gpus: int | None,
) -> None:
    """``command: vllm serve ...`` as one text, which compose splits as a shell would."""
    word = _scalar(value, text, offset)
    inner = search(word, env)
    if not inner.found and engine == "vllm" and not after and inner.runs:
        words = inner.runs[0].words
        if words:
            inner.found.append(Found("vllm", words[0], words, env, version))
    for one in inner.found:
        mine = version if engine and one.engine.startswith(engine) else None
        one = replace(one, version=one.version or mine, gpus=gpus)
        found.reading.found.append(replace(one, contained=True))
    found.reading.runs += inner.runs
    found.reading.troubles += inner.troubles


def _scalar(node: yaml.ScalarNode, text: str, offset: int) -> Word:
    start, stop = node.start_mark.index, node.end_mark.index
    raw = (
        text[start:stop].rstrip() if node.style not in ("|", ">") else text[start:stop]
    )
    word = aligned(str(node.value), raw, offset + start)
    return word


def _filled(word: Word, env: Mapping[str, Word]) -> Word:
    """``$(NAME)`` and ``${NAME:-default}`` put in, or unknown."""
    while found := _VARIABLE.search(word.text):
        name = found[1] or found[2]
        value = env[name].text if name in env else found[3]
        new = UNKNOWN if value is None or _VARIABLE.search(value) else value
        first, last = found.span()
        at = word.at[first] if first < len(word.at) else word.start
        to = word.to[last - 1] if last else word.end
        word = Word(
            word.text[:first] + new + word.text[last:],
            word.start,
            word.end,
            (*word.at[:first], *[at] * len(new), *word.at[last:]),
            (*word.to[:first], *[to] * len(new), *word.to[last:]),
        )
    return word


def _environment(
    keys: Mapping[str, yaml.Node], text: str, offset: int
) -> dict[str, Word]:
    """``env: [{name, value}]``, ``environment: {A: b}`` and ``environment: [A=b]``."""
    found: dict[str, Word] = {}
    for name in ("env", "environment"):
        node = keys.get(name)
        if isinstance(node, yaml.MappingNode):
            for key, value in manifest_keys(node).items():
                if isinstance(value, yaml.ScalarNode):
                    found[key] = _scalar(value, text, offset)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                pair = manifest_keys(item)
                key_node, value_node = pair.get("name"), pair.get("value")
                if isinstance(key_node, yaml.ScalarNode) and isinstance(
                    value_node, yaml.ScalarNode
                ):
                    found[key_node.value] = _scalar(value_node, text, offset)
                elif isinstance(item, yaml.ScalarNode) and "=" in item.value:
                    word = _scalar(item, text, offset)
                    at = word.text.index("=")
                    found[word.text[:at]] = word.part(at + 1, len(word.text))
    return found


def _gpus(keys: Mapping[str, yaml.Node]) -> int | None:
    """GPUs that a container is given: Kubernetes' limits, compose's devices."""
    resources = manifest_keys(keys.get("resources") or yaml.ScalarNode("", ""))
    for part in ("limits", "requests"):
        asked = manifest_keys(resources.get(part) or yaml.ScalarNode("", ""))
        for key in _GPU_KEYS:
            value = asked.get(key)
            if isinstance(value, yaml.ScalarNode) and str(value.value).isdecimal():
                return int(value.value)
    node: yaml.Node | None = keys.get("deploy")
    for key in ("resources", "reservations", "devices"):
        node = manifest_keys(node).get(key) if node is not None else None
    if isinstance(node, yaml.SequenceNode):
        for device in node.value:
            count = manifest_keys(device).get("count")
            if isinstance(count, yaml.ScalarNode) and str(count.value).isdecimal():
                return int(count.value)
    return None
