"""Sends requests to APIs. No other package does."""
