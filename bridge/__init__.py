"""restbridge: a directory of YAML tool files, served as MCP tools over REST APIs."""

__version__ = "0.1.0"
