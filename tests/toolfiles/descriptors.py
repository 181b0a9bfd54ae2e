"""Leaves few file descriptors, as after hundreds of connections."""

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def descriptors_left(count: int) -> Iterator[tuple[int, int]]:
    """Let this process open at most ``count`` more files; yields its usual limits (soft, hard)."""
    gc.collect()  # otherwise garbage could free descriptors later
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    opened = []
    try:
        while True:
            opened.append(os.dup(0))
    except OSError:
        for _ in range(count):
            os.close(opened.pop())
    try:
        yield soft, hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in opened:
            os.close(descriptor)
