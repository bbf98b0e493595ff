"""A program that starts another one and makes sure that it does not outlive us: `guard.py SIGNAL PARENT_PID -- ARGV…`.

It asks Linux for SIGNAL when its parent goes, whatever way the parent ends, SIGKILL too, and then turns into ARGV.
The wish survives the exec. On other systems it only starts ARGV.

Two things to know: the signal comes when the *thread* that started the guard ends, so start it from the main thread
(or from one that waits for it); and only this one process is told, so a launcher with children of its own needs
SIGTERM and not SIGKILL. It runs as `python -I -S guard.py`, so it imports nothing of ours.
"""

import os
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def command(signal_number: int, argv: list[str]) -> list[str]:
    """The command line that runs `argv` tied to this process."""
    return [sys.executable, "-I", "-S", __file__, str(signal_number), str(os.getpid()), "--", *argv]


def tie_to_parent(signal_number: int, parent_pid: int) -> None:
    """Ask for the signal, then look whether the parent went before we could ask."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:
        os._exit(0)


def main(arguments: list[str]) -> None:
    signal_number, parent_pid, dashes, *argv = arguments
    if dashes != "--" or not argv:
        raise SystemExit("usage: guard.py SIGNAL PARENT_PID -- ARGV…")
    tie_to_parent(int(signal_number), int(parent_pid))
    try:
        os.execv(argv[0], argv)
    except OSError as error:
        raise SystemExit(f"cannot start {argv[0]}: {error.strerror}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
