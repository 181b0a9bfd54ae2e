"""The commands of the command line, one in each module. Each ``run`` returns the exit code."""
