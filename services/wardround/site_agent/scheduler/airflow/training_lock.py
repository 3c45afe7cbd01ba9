"""Whether a training is at work in a task's folder, as the file says that it holds locked meanwhile."""

import fcntl
import os
from pathlib import Path


def is_held(lock: Path) -> bool:
    """Whether some process holds the lock; not where that cannot be told, as on a file system that knows no locks."""
    try:
        file = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False
