"""The verbs of the command line, one a file; each answers an exit code."""
