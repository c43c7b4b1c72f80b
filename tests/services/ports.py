"""Free loopback ports for the servers that `handle` starts.

A port is never handed out twice by one process, and lies below the range from which the kernel
takes the local ends of outgoing connections. Both matter after a `kill()`: a port asked from the
kernel (bind to 0) comes from that very range, so while the server is down a reconnecting client
may be given it as its own local port, connect to *itself*, and keep the server from coming back.
"""

import random
import socket
from contextlib import closing

HOST = "127.0.0.1"
BUS_OFFSET = 10_000  # Redis Cluster's bus listens on port + 10,000, which must exist as well

_LOWEST, _HIGHEST = 10_240, 22_000  # with the bus: up to 32,000; Linux hands out 32,768 and above
_handed_out: set[int] = set()
# Not the shared generator: tests seed that one, and then parallel workers would draw alike.
_random = random.SystemRandom()


def free_port(*, bus: bool = False) -> int:
    """Return a port that nobody listens on now; with `bus`, port + 10,000 is free as well.

    Another process can still take it before the server does; `handle.Server.start` retries then.
    """
    for _ in range(1_000):
        port = _random.randint(_LOWEST, _HIGHEST)
        wanted = (port, port + BUS_OFFSET) if bus else (port,)
        if _handed_out.isdisjoint(wanted) and all(map(_is_free, wanted)):
            _handed_out.update(wanted)
            return port
    raise OSError(f"no free port between {_LOWEST} and {_HIGHEST}")


def _is_free(port: int) -> bool:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        # As the servers do: a connection of theirs in TIME_WAIT must not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
