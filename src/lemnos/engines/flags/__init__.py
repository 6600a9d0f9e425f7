"""What each release of each engine takes on its command line, and a parser that judges as it does."""

from lemnos.engines.flags.parse import Parsed, Problem, parse
from lemnos.engines.flags.schema import (
    Kind,
    Lifetime,
    Option,
    Schema,
    lifetime,
    schema_for,
    versions,
)

__all__ = [
    "Kind",
    "Lifetime",
    "Option",
    "Parsed",
    "Problem",
    "Schema",
    "lifetime",
    "parse",
    "schema_for",
    "versions",
]
