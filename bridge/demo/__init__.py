"""The embedded sample API."""
