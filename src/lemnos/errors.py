"""The one error that a person sees: a sentence that says what, where, and what to do."""

from __future__ import annotations


class LemnosError(Exception):
    """A mistake or a failure that lemnos explains instead of raising a traceback.

    ``what`` happened, ``where`` (a file and line, a host, a URL; may be empty) and
    the ``fix`` to try (may be empty). ``exit_code`` is 2 when the request itself
    was wrong (a flag, a key, a name) and 1 when a right request failed.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}" + (f"\n  -> {self.fix}" if self.fix else "")

    def as_dict(self) -> dict[str, str]:
        """The error for ``--json`` and for a Record."""
        return {"what": self.what, "where": self.where, "fix": self.fix}


class UsageError(LemnosError):
    """What was asked cannot be right: a key, a flag, a name, a layout."""

    exit_code = 2


def near(word: str, known: list[str], *, most: int = 3) -> str:
    """`` Did you mean 'x'?`` for the known words nearest to ``word``, or nothing."""
    import difflib

    folded = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), folded, n=most, cutoff=0.5)
    if not close:
        return ""
    return "Did you mean " + " or ".join(f"'{folded[name]}'" for name in close) + "?"
