"""What the planner needs to know of a model, read from its own header."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from lemnos.errors import LemnosError
from lemnos.models.gguf import Gguf, Length, read_gguf
from lemnos.spec.facts import LocalModel, ModelFacts


def model_facts(model: LocalModel) -> ModelFacts:
    """The facts of a model that is here. Raises LemnosError where they cannot be read."""
    if model.format != "gguf":
        raise LemnosError(
            f"{model.name} is a safetensors model, which the embedded engine does not serve",
            where=model.path,
            fix="give a GGUF of it: many repositories have one, with GGUF in their name",
        )
    return gguf_facts(model.name, Path(model.path), read_gguf(Path(model.path)))


def gguf_facts(name: str, path: Path, header: Gguf) -> ModelFacts:
    """The facts in a GGUF header; keys are prefixed with the architecture's name."""
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise LemnosError("has no general.architecture", where=str(path))

    def number(key: str, default: int | None = None) -> int:
        value = header.metadata.get(f"{architecture}.{key}", default)
        if isinstance(value, list):  # one a layer, in models whose layers differ
            value = max(value, default=None)
        if not isinstance(value, int) or value <= 0:
            raise LemnosError(
                f"has no usable {architecture}.{key} in its header",
                where=str(path),
                fix="it may be an adapter or a projector, not a language model",
            )
        return value

    heads, hidden = number("attention.head_count"), number("embedding_length")
    sizes: Counter[str] = Counter()
    for tensor in header.tensors:
        sizes[tensor.type] += tensor.bytes
    return ModelFacts(
        name=name,
        architecture=architecture,
        format="gguf",
        parameters=sum(tensor.elements for tensor in header.tensors),
        weights_bytes=sum(tensor.bytes for tensor in header.tensors),
        layers=number("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=number("attention.head_count_kv", heads),
        head_dim=number("attention.key_length", max(1, hidden // heads)),
        vocabulary=_vocabulary(header) or number("vocab_size"),
        max_context=number("context_length"),
        quantization=sizes.most_common(1)[0][0] if sizes else "none",
        has_chat_template="tokenizer.chat_template" in header.metadata,
    )


def _vocabulary(header: Gguf) -> int | None:
    """The number of tokens that the header lists; None if it lists none."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, Length):
        return tokens.count
    return len(tokens) if isinstance(tokens, list) and tokens else None
