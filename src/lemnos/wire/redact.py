"""Keys and passwords, taken out of text that is shown, kept or logged."""

from __future__ import annotations

import re

# The groups are what stays: the words that say what was there. Values have no quotes and no
# spaces, so that JSON and YAML stay what they are.
_SECRET = re.compile(
    r"""
      (\bBearer\s+)[\w.~+/=-]{8,}
    | (\bAuthorization["']?\s*[:=]\s*["']?Basic\s+)[\w.~+/=-]{8,}
    | ((?:--api-key\s+|\b(?:x-)?api[-_]?key["']?\s*[:=]\s*)[\["'(]*)[\w.~+/=-]{8,}
    | (://[^\s:/@"']*:)[^\s/@"']+(?=@)
    | \b(?:sk|gsk|xai|nvapi|lemnos)-[\w-]{20,}
    | \bhf_[A-Za-z0-9]{16,}
    """,
    re.VERBOSE | re.IGNORECASE,
)


def redact(text: str) -> str:
    """``text`` without keys: Bearer and Basic credentials, values of api_key, passwords in URLs,
    and whatever begins as keys of providers (and of lemnos) do."""
    return _SECRET.sub(_masked, text)


def _masked(found: re.Match[str]) -> str:
    return "".join(kept for kept in found.groups() if kept) + "***"
