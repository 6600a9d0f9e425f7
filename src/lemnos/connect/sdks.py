"""OpenAI's SDK and LangChain: the variables that they read, and a snippet that works. Pure."""

from __future__ import annotations

import json

from lemnos.connect.access import Access, Variables, key_value
from lemnos.connect.documents import Edits

_OPENAI = """\
from openai import OpenAI

client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
answer = client.chat.completions.create(
    model={model},
    messages=[{{"role": "user", "content": "Write one sentence about the sea."}}],
)
print(answer.choices[0].message.content)
"""
_OPENAI_EMBEDDINGS = """\
vectors = client.embeddings.create(model={model}, input=["the sea"])
print(len(vectors.data[0].embedding))
"""
_LANGCHAIN = """\
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model={model})  # reads OPENAI_API_BASE and OPENAI_API_KEY
print(model.invoke("Write one sentence about the sea.").content)
"""
_LANGCHAIN_EMBEDDINGS = """\
from langchain_openai import OpenAIEmbeddings

# Without the check, it sends text; with it, token ids of OpenAI's own models.
embeddings = OpenAIEmbeddings(model={model}, check_embedding_ctx_length=False)
print(len(embeddings.embed_query("the sea")))
"""


def variables(app: str, access: Access) -> Variables:
    """What ``openai`` or ``langchain`` reads from its environment."""
    made = {
        "OPENAI_BASE_URL": access.base_url,
        "OPENAI_API_KEY": key_value(access),
    }
    if app == "langchain":
        made["OPENAI_API_BASE"] = access.base_url
    return made


def snippet(app: str, access: Access) -> str:
    """Python that works with these variables."""
    chat, embeddings = (
        (_LANGCHAIN, _LANGCHAIN_EMBEDDINGS)
        if app == "langchain"
        else (_OPENAI, _OPENAI_EMBEDDINGS)
    )
    made = chat.format(model=json.dumps(access.model))
    if access.embedding_model:
        made += "\n" + embeddings.format(model=json.dumps(access.embedding_model))
    return made


def edits(plain: dict[str, str]) -> Edits:
    """For a .env file."""
    return {(name,): value for name, value in plain.items()}
