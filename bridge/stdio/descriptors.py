"""Keeps the protocol's stdin and stdout apart from the process's own."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def private_stdio() -> Iterator[tuple[int, int]]:
    """Duplicates of stdin and stdout for the protocol. Meanwhile fd 0 is empty, and a stray print goes to stderr."""
    source, sink = os.dup(0), os.dup(1)  # not inheritable, so a child process gets neither
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    try:
        yield source, sink
    finally:
        sys.stdout.flush()  # while fd 1 still is stderr: what a print has left there is no message
        os.dup2(source, 0)
        os.dup2(sink, 1)
        os.close(source)
        os.close(sink)
