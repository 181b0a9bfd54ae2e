"""JSON Schemas of arguments and results: what they allow, what they cost, how violations read."""
