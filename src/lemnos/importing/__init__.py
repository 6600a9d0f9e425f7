"""Somebody's old configuration as specs: ``lemnos import config.yaml``."""

from lemnos.importing.importing import Imported, import_config
from lemnos.importing.writing import default_spec, write

__all__ = ["Imported", "default_spec", "import_config", "write"]
