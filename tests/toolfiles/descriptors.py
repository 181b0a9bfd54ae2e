"""Few descriptors left, as after hundreds of connections."""

import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def descriptors_left(count: int) -> Iterator[tuple[int, int]]:
    """Let this process open no more than so many files; gives the limits that it has else."""
    gc.collect()  # what nobody holds any more must not be closed meanwhile
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        for _ in range(count):
            os.close(taken.pop())
    try:
        yield soft, hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
