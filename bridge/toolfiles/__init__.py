"""The reading wing: bytes in tools.d become a snapshot."""
