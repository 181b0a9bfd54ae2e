"""The descriptors that a client over stdio reads and writes."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def private_stdio() -> Iterator[tuple[int, int]]:
    """Descriptors of stdin and stdout that nobody else knows; a stray print goes to stderr meanwhile."""
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    try:
        yield source, sink
    finally:
        sys.stdout.flush()
        os.dup2(source, 0)
        os.dup2(sink, 1)
        os.close(source)
        os.close(sink)
