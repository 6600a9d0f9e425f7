"""The fixtures that start gateways."""

from tests.contract.gateway.gateways import behind, start

__all__ = ["behind", "start"]
