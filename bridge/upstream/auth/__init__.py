"""Authentication of requests to APIs."""
