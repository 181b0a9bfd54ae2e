"""restbridge serves a directory of YAML tool files as MCP tools that call REST APIs."""

from typing import Final

__version__ = "0.1.0"


NAME: Final = "restbridge"
