"""The site's cases: found in its folders, split by its salt, never through a link that leads out."""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from pathlib import Path

from wardround.training.errors import CaseUnreadableError, TaskError
from wardround_messages.task_folder import JobData

VALIDATION = 0.2


class CaseFolders:
    """The folders of one data set at this site."""

    def __init__(self, data: JobData) -> None:
        self._data = data
        self.folders = tuple(Path(folder) for folder in data.folders)

    @property
    def layout(self) -> str | None:
        """How the files lie, in the words of the site's configuration (e.g. "decathlon")."""
        return self._data.layout

    def glob(self, pattern: str) -> list[Path]:
        """Files and folders that match in any of the data folders, sorted by `name`, then by folder.

        Raises:
            TaskError: `data_missing`, `link_out_of_folder`.
        """
        if ".." in Path(pattern).parts or Path(pattern).is_absolute():
            raise TaskError("link_out_of_folder", f"the trainer's pattern '{pattern}' leads out of the data folder")
        found = [path for folder in self.folders for path in _inside(folder, pattern)]
        return sorted(found, key=lambda path: (self.name(path), str(path)))

    def name(self, case: Path) -> str:
        """What the split knows a case by: its path below the data folder.

        Where there are several data folders, the folder's own name goes before it: a site may have one per case.
        """
        path = case.as_posix()
        for folder in self.folders:
            inner = path.removeprefix(f"{folder.as_posix()}/")
            if inner != path:
                return inner if len(self.folders) == 1 else f"{folder.name}/{inner}"
        raise ValueError("a case lies in one of the data folders")


def _inside(folder: Path, pattern: str) -> Iterable[Path]:
    try:
        root = folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise TaskError("data_missing", "a folder of the data set is not there; see the site's map of data sets") from (
            error
        )
    sound = {folder}
    for path in folder.glob(pattern):
        if path == folder:
            continue
        for inner in (path, *(path.rglob("*") if path.is_dir() else ())):
            if inner.parent not in sound:
                _refuse_leading_out(inner.parent, root)
                sound.add(inner.parent)
            if inner.is_symlink():
                _refuse_leading_out(inner, root)
        yield path


def _refuse_leading_out(path: Path, root: Path) -> None:
    try:
        inside = path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead round in a circle
        raise CaseUnreadableError from error
    if not inside:
        raise TaskError("link_out_of_folder", "a link leads out of the data folder; put the file itself there")


def split_by_salt(names: Sequence[str], salt: str, share: float) -> frozenset[str]:
    """The validation cases: those whose HMAC-SHA256 under the site's salt falls below `share`.

    A case's side depends on its name and the salt alone, so it stays when cases come and go. Only where one side
    would be empty does the case nearest to the border change sides.
    """
    draws = {name: _draw(name, salt) for name in names}
    validation = {name for name, draw in draws.items() if draw < share}
    if len(draws) > 1 and not validation:
        validation = {min(draws, key=lambda name: (draws[name], name))}
    elif len(draws) > 1 and len(validation) == len(draws):
        validation.remove(max(draws, key=lambda name: (draws[name], name)))
    return frozenset(validation)


def _draw(name: str, salt: str) -> float:
    """Uniform in [0, 1): the first 53 bits of the HMAC."""
    mac = hmac.digest(salt.encode(), name.encode("utf-8", "surrogateescape"), hashlib.sha256)
    return (int.from_bytes(mac[:8], "big") >> 11) / 2**53
