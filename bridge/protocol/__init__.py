"""MCP for both transports and both eras: listing and calling tools, notifications of changes."""
