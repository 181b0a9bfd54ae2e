"""Checks parsed values: they become specs, or diagnostics."""
