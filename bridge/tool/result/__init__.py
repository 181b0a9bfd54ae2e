"""Results of tool calls: content blocks within size limits, and errors."""
