"""Free ports of the loopback interface."""

import random
import socket
from itertools import islice

LOOPBACK = "127.0.0.1"
# Below those that the kernel gives to outgoing connections: a service that starts again finds its port still free.
RANGE = range(20_000, 32_000)


def free_ports(number: int) -> list[int]:
    """So many different ports that are free now."""
    candidates = random.SystemRandom().sample(RANGE, len(RANGE))
    found = list(islice(filter(is_free, candidates), number))
    if len(found) < number:
        raise OSError(f"fewer than {number} ports of {RANGE.start} to {RANGE.stop} are free")
    return found


def is_free(port: int) -> bool:
    """Whether a program could listen on that port now; port 0 never counts as free."""
    if port == 0:
        return False
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError:
        return False
    return True
