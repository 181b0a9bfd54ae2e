"""Parses YAML: text becomes values with their lines and columns."""
