"""The options that a release adds to its parser, as its sources say."""

from __future__ import annotations

import dataclasses
from typing import Any

from flags.names import Collecting


@dataclasses.dataclass
class Added:
    """One ``add_argument`` call."""

    names: tuple[str, ...]
    more: dict[str, Any]


class Done(BaseException):
    """The parser is about to read a command line."""


class Collector(Collecting):
    """Stands for a parser and for each of its groups: remembers what is added."""

    def __init__(self) -> None:
        self.added: list[Added] = []
        self._actions: list[
            Any
        ] = []  # what other code copies: an engine's own, not these

    def add_argument(self, *names: str, **more: Any) -> Any:
        """Remember an argument; the answer is the remembered one."""
        made = Added(names, more)
        self.added.append(made)
        return made

    def add_argument_group(self, *args: Any, **more: Any) -> Collector:
        """A group is the parser itself."""
        return self

    def add_mutually_exclusive_group(self, *args: Any, **more: Any) -> Collector:
        """A group is the parser itself."""
        return self

    def parse_args(self, *args: Any, **more: Any) -> Any:
        """Every option has been added: the rest of the function is of no interest."""
        raise Done

    parse_known_args = parse_args

    def set_defaults(self, **more: Any) -> None:
        """Defaults that are set later replace the earlier ones."""
        for one in self.added:
            for name in one.names:
                key = name.lstrip("-").replace("-", "_")
                if key in more:
                    one.more["default"] = more[key]
