"""The C library's memory while something is measured."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's numbers


def keep_freed_memory() -> bool:
    """Lets the process keep the memory that it frees, as jemalloc and tcmalloc do; returns whether it does.

    By default glibc gives large pieces back to the system and faults them in anew, page by page, when the next tensor
    wants them. To which peer that happens depends on what else the process holds.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))
