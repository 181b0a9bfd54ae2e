"""The server over HTTP: connections, authentication, request checks."""
