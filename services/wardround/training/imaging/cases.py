"""Cases read when they are needed, and kept while there is room: a data set need not fit into memory."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.training.imaging.decathlon import CaseFiles
from wardround.training.imaging.nifti import naming, read_scan
from wardround.training.imaging.preparing import prepared


@dataclass(frozen=True, slots=True)
class Case:
    """`image` is float32 [channels, x, y, z] and `label` uint8 [x, y, z], prepared. Not to be changed: it is shared."""

    name: str
    image: NDArray[np.float32]
    label: NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.label.nbytes


class CaseReader:
    """Prepared cases, of which those used last stay in memory, in `bytes_at_most` bytes.

    Args:
        spacing: of the voxels, in mm; 0 leaves them as they were scanned.
    """

    def __init__(self, spacing: float, bytes_at_most: int) -> None:
        self._spacing = spacing
        self._bytes_at_most = bytes_at_most
        self._kept: OrderedDict[Path, Case] = OrderedDict()
        self._bytes = 0

    def read(self, files: CaseFiles) -> Case:
        """Raises `CaseUnreadableError`."""
        if files.image in self._kept:
            self._kept.move_to_end(files.image)
            return self._kept[files.image]
        with naming(files.name):
            scan = prepared(read_scan(files), self._spacing)
        case = Case(files.name, scan.image, scan.label)
        self._keep(files.image, case)
        return case

    def _keep(self, key: Path, case: Case) -> None:
        if case.nbytes > self._bytes_at_most:
            return
        while self._bytes + case.nbytes > self._bytes_at_most:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
        self._kept[key] = case
        self._bytes += case.nbytes


class Cases(Sequence[Case]):
    """A list of cases that are read as they are asked for."""

    def __init__(self, files: Sequence[CaseFiles], reader: CaseReader) -> None:
        self._files = files
        self._reader = reader

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> Case:  # type: ignore[override]
        return self._reader.read(self._files[number])
