"""What a power cut must not take."""

import os
from pathlib import Path


def sync_folder(folder: Path | str) -> None:
    """Have the disk confirm the names in a folder: what was made, renamed or removed there. Raises `OSError`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
