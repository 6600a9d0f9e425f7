# ruff: noqa: T201 (an example prints)
"""A LangChain chat model, a tool and embeddings, all from one endpoint of your own.

    lemnos up
    eval "$(lemnos connect langchain)"          # OPENAI_API_BASE and OPENAI_API_KEY
    python examples/langchain/assistant.py      # needs langchain-openai

A model's name may be given, and an embedding model's after it; the small one that `lemnos up`
serves by default does both, as well as its size allows.
"""

from __future__ import annotations

import math
import sys

from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, Field

CHAT = sys.argv[1] if len(sys.argv) > 1 else "smollm2-135m-instruct"
EMBEDDINGS = sys.argv[2] if len(sys.argv) > 2 else CHAT
NOTES = (
    "The forge on the island is open from nine to five.",
    "Bread and cheese are in the kitchen.",
    "The ship to Athens leaves on Monday morning.",
)


class Weather(BaseModel):
    """Ask for the weather in a city."""

    city: str = Field(description="the city's name")
    unit: str = Field(
        description="celsius or fahrenheit", pattern="^(celsius|fahrenheit)$"
    )


def main() -> None:
    """Stream an answer, call a tool, and find the nearest note."""
    model = ChatOpenAI(model=CHAT, temperature=0, max_completion_tokens=48)

    for piece in model.stream("Write one sentence about the sea."):
        print(piece.content, end="", flush=True)
    print()

    # The call's arguments are bound to a JSON schema: models whose template has no tools can
    # do that too. With a larger one, `model.bind_tools([Weather])` works as well.
    caller = model.with_structured_output(Weather, method="json_schema")
    call = caller.invoke("City: Athens. Unit: celsius. Write it as JSON.")
    print(f"calls: {call!r}")

    # Without the check, it sends the text; with it, token ids of OpenAI's own models.
    embeddings = OpenAIEmbeddings(model=EMBEDDINGS, check_embedding_ctx_length=False)
    question = embeddings.embed_query("When does the ship leave for Athens?")
    vectors = embeddings.embed_documents(list(NOTES))
    nearest = max(
        zip(NOTES, vectors, strict=True), key=lambda one: cosine(question, one[1])
    )
    print(f"{len(question)} numbers; nearest: {nearest[0]}")


def cosine(one: list[float], two: list[float]) -> float:
    """How much two vectors point the same way: -1 to 1."""
    return sum(map(math.prod, zip(one, two, strict=True))) / (
        math.hypot(*one) * math.hypot(*two)
    )


if __name__ == "__main__":
    main()
