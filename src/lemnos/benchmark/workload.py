"""What a benchmark sends. Pure: the same spec sends the same prompts."""

from __future__ import annotations

import random

WORDS = (
    "the of and to in a is that for it as was with be by on not he his but at are this "
    "have from or had an they which one you were all her she there would their we him been "
    "has when who will no more if out so up said what its about than into them can only "
    "other time new some could these two may first then do any like my now over such our "
    "man me even most made after also did many off before must well back through years "
    "much where your way down should because long each just state people those too good"
).split()
"""Common English words: one token each in the tokenizers of the models served here."""


def prompt(index: int, tokens: int) -> str:
    """The ``index``-th prompt, of about ``tokens`` tokens; no two begin alike.

    A common beginning would be answered from the engine's prefix cache.
    """
    generator = random.Random(index)  # the content must be repeatable, not secret
    return f"{index}. " + " ".join(generator.choices(WORDS, k=max(1, tokens - 3)))
