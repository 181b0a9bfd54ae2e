"""Loads tool files: bytes in tools.d become a snapshot of tools."""
