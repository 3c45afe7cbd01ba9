"""Following `metrics.jsonl` while a task writes it: bounded in memory, blind to what is not a metric."""

import os
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from wardround.runtime.regular_file import open_regular
from wardround.site_agent.policy import Leave
from wardround_messages.events import Progress
from wardround_messages.task_folder import METRIC_LINE_AT_MOST, MetricLine, MetricsLine, ProgressLine

CHUNK = 2**20
CHUNKS_AT_MOST = 16
NAMES_AT_MOST = 64

_LINE: TypeAdapter[ProgressLine | MetricLine] = TypeAdapter(MetricsLine)


class MetricsFollower:
    """The last values of a growing `metrics.jsonl`. `invalid` counts the lines that were skipped."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._rest = b""
        self._skipping = False
        self.invalid = 0
        self.progress: Progress | None = None
        self.epoch: int | None = None
        self.step: int | None = None
        self._metrics: dict[str, float | None] = {}

    def read_on(self) -> bool:
        """Read what was written since the last call, at most 16 MiB of it; True where there is something new."""
        news = False
        for _ in range(CHUNKS_AT_MOST):
            data = self._read()
            if not data:
                break
            news = self._take_all(data) or news
        return news

    def _take_all(self, data: bytes) -> bool:
        *lines, rest = (self._rest + data).split(b"\n")
        if self._skipping and lines:
            lines, self._skipping = lines[1:], False
        self._rest = b"" if self._skipping else rest
        if len(self._rest) > METRIC_LINE_AT_MOST:
            self._rest, self._skipping = b"", True
            self.invalid += 1
        news = [self._take(line) for line in lines]
        return any(news)

    def metrics(self, leave: Leave) -> dict[str, float | None]:
        """The last value of each metric that may leave."""
        return leave.metrics_allowed(self._metrics)[0]

    def _read(self) -> bytes:
        try:
            file = open_regular(self._path)
        except OSError:
            return b""
        with file:
            if os.fstat(file.fileno()).st_size < self._offset:  # started again
                self._offset, self._rest, self._skipping = 0, b"", False
            data = os.pread(file.fileno(), CHUNK, self._offset)
        self._offset += len(data)
        return data

    def _take(self, line: bytes) -> bool:
        try:
            if len(line) > METRIC_LINE_AT_MOST:
                raise ValueError("too long")
            entry = _LINE.validate_json(line)
        except (ValidationError, ValueError):
            self.invalid += 1
            return False
        if isinstance(entry, ProgressLine):
            self.progress = Progress(phase=entry.phase, done=entry.done, of=entry.of)
            return True
        if entry.name not in self._metrics and len(self._metrics) >= NAMES_AT_MOST:
            self.invalid += 1
            return False
        self._metrics[entry.name] = entry.value
        self.epoch = entry.epoch if entry.epoch is not None else self.epoch
        self.step = entry.step if entry.step is not None else self.step
        return True
