"""Memory that a command keeps instead of giving it back and taking it anew, and the most that it has held.

XLA's CPU back end takes memory for the temporaries of every step from the C library. glibc maps what is large anew each
time, so that a ResNet-18 step of 32 photos of 224 x 224 meets 430,000 page faults, a fifth of its time; told to keep
it, none. The price is memory: what lies in between keeps free pieces apart, and after some steps a heap can be three
times as large as what a step needs. So it is kept up to a share of the machine's memory, and no further.

A user's own process is never changed: this is for the commands, which call `keep_memory` before all else.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Iterable
from typing import Any

SWITCH = "JAXFT_MALLOC"  # 0 leaves the C library as it is
VARIABLE = "GLIBC_TUNABLES"
TUNABLES = (
    "glibc.malloc.mmap_max=0"  # all memory from the heap, whose pages stay
    ":glibc.malloc.trim_threshold=1000000000000"
    ":glibc.malloc.arena_max=1"  # threads, too: the heaps of their own would map what is larger than 64 MB
)
MMAP_MAX, MAPPED = -4, 65536  # mallopt's number of how much may be mapped, and glibc's own value
SHARE = 0.125  # of the machine's memory that is kept at most
HELP = {"-h", "--help", "--help-all"}  # needs no memory
COMMANDS = ("jaxft", "converters")  # packages whose modules are commands


@functools.cache
def keep_memory() -> None:
    """Starts the command again, once, with glibc's settings, which are read before a program begins.

    Arguments, standard input, working directory and process id stay; what the command starts later does not inherit
    the settings. Nothing is done where the main program is another one (a notebook, a test), where the C library is not
    glibc, where the user has set GLIBC_TUNABLES, or JAXFT_MALLOC=0.
    """
    if os.environ.get(VARIABLE) == TUNABLES:  # this is the second start
        del os.environ[VARIABLE]
        _kept.add(True)
        return
    unwanted = VARIABLE in os.environ or os.environ.get(SWITCH) == "0" or not HELP.isdisjoint(sys.argv)
    if unwanted or not (_is_glibc() and _is_command()):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | {VARIABLE: TUNABLES})
    except OSError:
        return  # what cannot be started again goes on as it is


_kept = set[bool]()  # empty where memory is given back


def give_back_if_large() -> None:
    """Ends the keeping of memory where this process holds more than its share; to be called between steps."""
    if _kept and _held() > SHARE * _machine():
        _kept.clear()
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_MAX, MAPPED)
        library.malloc_trim(0)


def _held() -> int:
    """Bytes that are in memory now, without mapped files; 0 on a system that does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            _, resident, mapped, *_ = map(int, file.read().split())
            return (resident - mapped) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


@functools.cache
def _machine() -> int:
    """Bytes of memory that this process may have: the machine's, or less in a container."""
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(file, encoding="ascii") as opened:
                return min(whole, int(opened.read()))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return whole


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False


def _is_command() -> bool:
    """Whether the main program is a command, by `python -m` or as the installed script, with a line to start it by."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    name = spec.name if spec is not None else os.path.basename(getattr(main, "__file__", ""))
    return bool(sys.executable) and name.partition(".")[0] in COMMANDS


def peak(devices: Iterable[Any] = ()) -> str:
    """The most memory that this process has held, and that its devices have where they tell, for a person."""
    held = {"this process": peak_bytes()}
    for device in devices:
        held[f"{device.platform} {device.id}"] = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    return ", ".join(f"{size / 1e9:.1f} GB by {name}" for name, size in held.items() if size) or "not known here"


def peak_bytes() -> int:
    """The most bytes of memory that this process has held; 0 on a system that does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024  # there in bytes, elsewhere in KiB
