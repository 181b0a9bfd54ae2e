"""HTTP to APIs: connections, TLS, replies."""
