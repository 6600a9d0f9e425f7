"""What every direction needs: how it says no, and what both protocols' contents share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lemnos.errors import LemnosError, UsageError
from lemnos.wire.errors import Protocol

Json = dict[str, Any]

NAMES: dict[Protocol, str] = {
    "openai": "OpenAI's chat/completions",
    "anthropic": "Anthropic's Messages",
}


class Untranslatable(UsageError):  # noqa: N818
    """A request says something that the target's protocol has no words for.

    ``key`` is where it stands in the client's request: ``messages[2].content[0]``.
    """

    def __init__(self, key: str, to: Protocol, *, what: str = "") -> None:
        said = f"{what} in '{key}'" if what else f"'{key}'"
        source: Protocol = "anthropic" if to == "openai" else "openai"
        super().__init__(
            f"{said} cannot be said in {NAMES[to]}, all that the target speaks",
            fix=f"leave it out, or route the model to a target with {NAMES[source]}",
        )
        self.key = key


@contextmanager
def reading(what: str, error: type[LemnosError]) -> Iterator[None]:
    """Turn what is not of a protocol's form into ``error``; a decorator too.

    JSON from outside can have any shape at any depth. To check each key before it is
    used would be a second definition of both protocols, so a wrong shape is noticed
    where it is used.
    """
    try:
        yield
    except KeyError as missing:
        raise error(f"{what} lacks {missing.args[0]!r}") from missing
    except (TypeError, AttributeError, ValueError, IndexError) as wrong:
        raise error(f"{what} is not of its protocol's form") from wrong


def refuse(
    request: Json, unsayable: Mapping[str, tuple[Any, ...]], to: Protocol
) -> None:
    """Raise for the first key of ``unsayable`` whose value is not among its harmless ones."""
    for key, harmless in unsayable.items():
        value = request.get(key)
        if value is not None and value not in harmless:
            raise Untranslatable(key, to)


def present(source: Json, *keys: str) -> Json:
    """The ``keys`` that ``source`` has, less those that are null."""
    return {key: source[key] for key in keys if source.get(key) is not None}


def string(value: Any) -> str:
    """``value``, which must be one."""
    if not isinstance(value, str):
        raise TypeError(f"no string: {value!r:.80}")
    return value


def plain_text(content: Any, key: str, to: Protocol) -> str:
    """A string, or text blocks (alike in both protocols) as paragraphs; null is empty."""
    if content is None or isinstance(content, str):
        return content or ""
    for block in content:
        if block["type"] != "text":
            raise Untranslatable(key, to, what=f"{block['type']!r}")
    return "\n\n".join(block["text"] for block in content if block["text"])


def fold_system(messages: list[Json]) -> tuple[str, list[Json]]:
    """``messages`` (Anthropic's form) without the role ``system``, and the text that led them.

    Later system messages become text of the user's turn before them, or after them where
    an answer is before: the head of the prompt stays as it was, so that prefix caches hit
    (Claude Code says something as ``system`` on almost every turn), and no turn is added.
    """
    texts = [
        plain_text(m["content"], "messages", "openai") for m in messages if _system(m)
    ]
    leading = next((n for n, m in enumerate(messages) if not _system(m)), len(messages))
    spoken = iter(texts[leading:])
    folded: list[Json] = []
    waiting: list[str] = []
    for message in messages[leading:]:
        if _system(message):
            text = next(spoken)
            if folded and folded[-1]["role"] == "user":
                folded[-1] = _with_text(folded[-1], text)
            else:
                waiting.append(text)
            continue
        if waiting and message["role"] == "user":
            message = _with_text(message, "\n\n".join(waiting))
            waiting = []
        folded.append(message)
    if waiting:
        folded.append({"role": "user", "content": "\n\n".join(waiting)})
    return "\n\n".join(filter(None, texts[:leading])), folded


def _system(message: Json) -> bool:
    return bool(message["role"] == "system")


def _with_text(message: Json, text: str) -> Json:
    """A user's message with ``text`` at its end: in its last tool result if it has nothing else.

    Many chat templates keep reasoning only after the last user's turn, so tool results must not
    gain one.
    """
    if not text:
        return message
    blocks = _blocks(message["content"])
    if blocks and all(block["type"] == "tool_result" for block in blocks):
        last = blocks[-1]
        content = [*_blocks(last.get("content")), {"type": "text", "text": text}]
        blocks = [*blocks[:-1], {**last, "content": content}]
    else:
        blocks = [*blocks, {"type": "text", "text": text}]
    return {**message, "content": blocks}


def _blocks(content: Any) -> list[Json]:
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return list(content)
