"""How a command ends: an error becomes one line and an exit code; the command line and the demo call this.

The invariant: what a user can cause (a bad URL, a server that is down, Ctrl-C, a closed pipe) never ends in a
traceback; a bug in ambidex does.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from ambidex.errors import AmbidexError

__all__ = ["exit_code"]

_OUTPUT_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 130 interrupted."""
    try:
        code = command() or 0
        if sys.stdout is not None:  # it is where the caller has closed it
            sys.stdout.flush()  # here, where it can be told
        return code
    except AmbidexError as error:
        print(f"error: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # of the output only: the storage has errors of its own
        if error.errno not in _OUTPUT_FULL:
            raise
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
