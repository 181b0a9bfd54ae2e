"""Scans the tool directories, and tells when a changed file is stable."""
