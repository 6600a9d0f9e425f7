"""A command against the model that it serves: layout, context, parsers, quantization. Pure.

Only for models that lemnos knows: of others nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lemnos.lint.command import Command, inserted, of_use, removed, rewritten
from lemnos.lint.data import families
from lemnos.lint.facts import Facts, broken, facts_of, moved
from lemnos.lint.findings import Edit, Finding
from lemnos.lint.words import Word


@dataclass(frozen=True)
class Model:
    """What a command serves: the word as written, and the checkpoint if it is a known one."""

    word: Word
    name: str
    """As the hub has it today."""
    known: Facts | None


@dataclass(frozen=True)
class Ways:
    """A command's layout; 1 where it says nothing. None: in a variable that is unset."""

    tensor: int
    pipeline: int
    data: int
    expert: bool
    nodes: int

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline * self.data


def model_of(command: Command, downloads: Mapping[str, str]) -> Model | None:
    """The command's model; ``downloads`` are the document's own: directory -> model."""
    word = model_word(command)
    if word is None or not word.known or not word.text:
        return None
    text = downloads.get(word.text.rstrip("/"), word.text)
    name = moved(text)[0] or text
    local = name.startswith(("/", "./", "../", "~"))
    return Model(word, name, None if local else facts_of(name))


def ways_of(command: Command) -> Ways | None:
    """The layout; None where a part of it is not known before it runs."""
    if command.open_ended() and not command.use("--tensor-parallel-size", "--tp-size"):
        return None
    sizes = []
    for names in (
        ("--tensor-parallel-size", "--tp-size"),
        ("--pipeline-parallel-size", "--pp-size"),
        ("--data-parallel-size", "--dp-size"),
        ("--nnodes",),
    ):
        use = command.use(*names)
        size = command.number_of(*names) if use else 1
        if not size:
            return None
        sizes.append(size)
    tensor, pipeline, data, nodes = sizes
    if command.engine == "sglang" and command.has("--enable-dp-attention"):
        data = 1  # its ranks are those of TP
    return Ways(tensor, pipeline, data, _expert(command), nodes)


def model_findings(command: Command, model: Model | None) -> Iterator[Finding]:
    """What does not go together with the model."""
    yield from _partners(command)
    if model is None:
        return
    yield from _moved(command, model)
    if model.known is None:
        return
    yield from _experts(command, model.known)
    yield from _layout(command, model.known)
    yield from _context(command, model.known)
    yield from _parsers(command, model.known)
    yield from _stored(command, model.known)
    yield from _remote_code(command, model.known)


def model_word(command: Command) -> Word | None:
    """The word that names the model, whichever way the engine is told."""
    names = ("--model", "--model-path", "--model-tag")
    use = command.use(*names)
    if use and use.value:
        return use.value
    inside = {i for use in command.uses for i in range(use.index, use.stop)}
    first = command.words[0] if command.words else None
    if command.engine == "vllm" and first and 0 not in inside:
        return None if first.text.startswith("-") else first
    for index, word in enumerate(command.words):
        if index in inside or word.text.startswith("-") or not index:
            continue
        before = command.words[index - 1]
        if not before.text.startswith("-") or (index - 1) in inside:
            return word if command.engine == "vllm" else None
    return None


def _expert(command: Command) -> bool:
    if command.engine == "sglang":
        return (command.number_of("--ep-size") or 1) > 1
    return command.has("--enable-expert-parallel")


def _moved(command: Command, model: Model) -> Iterator[Finding]:
    now, why = moved(model.word.text)
    if now:
        what = f"{model.word.text} is published as {now}"
        yield _finding(
            command,
            "moved-model",
            model.word,
            what,
            why,
            f"write {now}",
            rewritten(model.word, now),
        )


def _experts(command: Command, known: Facts) -> Iterator[Finding]:
    use = command.use("--enable-expert-parallel", "--ep-size")
    if use is None or not _expert(command) or known.moe:
        return
    yield of_use(
        command,
        "experts-without-moe",
        use,
        f"{known.name} has no experts to spread over GPUs",
        "expert parallelism divides the routed experts of MoE layers",
        "leave it out",
        removed(command, use.index, use.stop),
    )


def _layout(command: Command, known: Facts) -> Iterator[Finding]:
    ways = ways_of(command)
    use = command.use("--tensor-parallel-size", "--tp-size")
    if ways is None or (use is None and ways.pipeline == 1):
        return
    if ways.pipeline == ways.data == 1:
        fine = known.tensor_expert if ways.expert else known.tensor
        if ways.tensor in fine:
            return
    found = _refused(known, ways)
    if not found:
        return
    rule, sentence = found[0]
    where = use or command.use("--pipeline-parallel-size", "--pp-size")
    assert where is not None
    smaller = [n for n in (16, 8, 4, 2, 1) if n < ways.tensor]
    fits = [n for n in smaller if not _refused(known, replace(ways, tensor=n))]
    instead = f"{use.name if use else where.name} {fits[0]} divides it" if fits else ""
    yield of_use(
        command, "layout", where, f"{known.name}: {sentence} [{rule}]", "", instead, ()
    )


def _refused(known: Facts, ways: Ways) -> tuple[tuple[str, str], ...]:
    return broken(known.name, ways.tensor, ways.pipeline, ways.data, ways.expert)


def _context(command: Command, known: Facts) -> Iterator[Finding]:
    names = ("--max-model-len", "--context-length")
    use = command.use(*names)
    asked = command.number_of(*names)
    if use is None or use.value is None or asked is None or asked <= known.context:
        return
    if command.use("--rope-scaling", "--hf-overrides", "--json-model-override-args"):
        return
    if "ALLOW_LONG_MAX_MODEL_LEN" in " ".join(command.found.env):
        return
    yield of_use(
        command,
        "context-too-long",
        use,
        f"{known.name} was trained for {known.context:,} tokens, and {asked:,} are asked for",
        "the engine refuses a longer context than the model's config says",
        f"at most {known.context}",
        rewritten(use.value, str(known.context)),
    )


def _parsers(command: Command, known: Facts) -> Iterator[Finding]:
    for kind, flag in (
        ("tool", "--tool-call-parser"),
        ("reasoning", "--reasoning-parser"),
    ):
        use = command.use(flag)
        if use is None or use.value is None or not use.value.known:
            continue
        right = _right(command, known, kind)
        if right is None or use.value.text in right:
            continue
        choices = use.option.choices
        usable = [name for name in right if not choices or name in choices]
        written = use.value.text
        if not right:
            what = (
                f"{known.name} has no {kind} parser, and {written} is another family's"
            )
            yield of_use(
                command, "wrong-parser", use, what, "", "leave it out",
                removed(command, use.index, use.stop),
            )  # fmt: skip
        elif usable:
            what = (
                f"{known.name} writes its {kind} calls"
                if kind == "tool"
                else known.name
            )
            what += f" for the parser {usable[0]}, not {written}"
            if kind == "reasoning":
                what = f"{known.name}'s reasoning is read by the parser {usable[0]}, not {written}"
            why = "another family's parser finds nothing, or breaks the answer"
            yield of_use(
                command, "wrong-parser", use, what, why, f"write {usable[0]}",
                rewritten(use.value, usable[0]),
            )  # fmt: skip


def _right(command: Command, known: Facts, kind: str) -> list[str] | None:
    for row in families()["parsers"]:
        if re.search(row["models"], known.name):
            names = row.get(command.engine, {}).get(kind)
            return None if names is None else list(names)
    return None


def _partners(command: Command) -> Iterator[Finding]:
    if (
        command.engine != "vllm"
        or command.open_ended()
        or not command.schema.named(_AUTO)
    ):
        return
    parser, auto = command.use("--tool-call-parser"), command.use(_AUTO)
    if parser and not auto:
        yield of_use(
            command,
            "missing-partner",
            parser,
            f"--tool-call-parser does nothing without {_AUTO}",
            "without it the engine refuses a request whose tool_choice is auto, the default",
            f"add {_AUTO}",
            inserted(command, [_AUTO]),
        )
    if auto and not auto.negated and not parser:
        yield of_use(
            command,
            "missing-partner",
            auto,
            f"{_AUTO} needs --tool-call-parser",
            "the engine ends with an error at start",
            "add --tool-call-parser with the model's parser",
            (),
        )


_AUTO = "--enable-auto-tool-choice"


def _stored(command: Command, known: Facts) -> Iterator[Finding]:
    use = command.use("--quantization")
    if use is None or use.value is None or not use.value.known or not known.method:
        return
    written = use.value.text
    own = known.method
    if written in families()["stored"].get(own, [written]):
        return
    yield of_use(
        command,
        "quantization",
        use,
        f"{known.name} is stored as {own}, and --quantization says {written}",
        "the engine reads the method from the checkpoint, and refuses another one",
        "leave it out",
        removed(command, use.index, use.stop),
    )


def _remote_code(command: Command, known: Facts) -> Iterator[Finding]:
    use = command.use("--trust-remote-code")
    if use is None or use.negated:
        return
    yield of_use(
        command,
        "remote-code",
        use,
        f"--trust-remote-code is not needed: {known.architecture} is built into the engine",
        "it runs whatever Python the model's repository holds, as the user who serves",
        "leave it out",
        removed(command, use.index, use.stop),
    )


def _finding(
    command: Command,
    rule: str,
    word: Word,
    what: str,
    why: str,
    instead: str,
    edits: tuple[Edit, ...],
) -> Finding:
    return Finding(
        rule, word.start, word.end, what, why, instead, edits, command.number
    )
