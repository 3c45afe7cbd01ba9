"""`metrics.jsonl`: what a training says while it runs, thinned so that a fast loop does not fill the disk."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wardround_messages.base import canonical_json
from wardround_messages.task_folder import MetricLine, ProgressLine

EVERY = 0.5  # seconds between two lines of one metric; the agent publishes at most once a second
NAMES_AT_MOST = 64


class MetricsFile:
    """Appends lines, each whole and visible at once. The first and the last value of a metric are always written."""

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._file = path.open("ab", buffering=0)
        self._monotonic = monotonic
        self._written: dict[str, float] = {}
        self._pending: dict[str, Callable[[], ProgressLine | MetricLine]] = {}
        self._last: dict[str, Callable[[], float]] = {}

    def progress(self, phase: str, done: int, of: int) -> None:
        now = time.time()
        self._offer(f" {phase}", lambda: ProgressLine(t=now, phase=phase, done=done, of=max(done, of)))

    def metric(self, name: str, value: Any, *, step: int, epoch: int) -> None:
        """`value` is anything that `float` takes; it is converted only when it is written."""
        if name not in self._last and len(self._last) == NAMES_AT_MOST:
            raise ValueError(f"a training may log {NAMES_AT_MOST} metrics; '{name}' is one more")
        # A tensor would hold its whole graph in memory until it is written.
        number = value.detach() if hasattr(value, "detach") else value
        now = time.time()
        self._last[name] = lambda: float(number)
        self._offer(name, lambda: _line(name, float(number), now, step, epoch))

    def last(self) -> dict[str, float]:
        """The newest value of every metric."""
        return {name: value() for name, value in self._last.items()}

    def _offer(self, key: str, line: Callable[[], ProgressLine | MetricLine]) -> None:
        now = self._monotonic()
        if now - self._written.get(key, -math.inf) < EVERY:
            self._pending[key] = line
            return
        self._written[key] = now
        self._pending.pop(key, None)
        self._write(line())

    def flush(self) -> None:
        """Write what was held back."""
        for line in self._pending.values():
            self._write(line())
        self._pending.clear()

    def _write(self, line: ProgressLine | MetricLine) -> None:
        self._file.write(canonical_json(line) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or issubclass(kind, Exception):
                self.flush()
        finally:
            self._file.close()


def _line(name: str, value: float, t: float, step: int, epoch: int) -> MetricLine:
    if math.isfinite(value):
        return MetricLine(t=t, name=name, value=value, step=step, epoch=epoch)
    which = "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return MetricLine(t=t, name=name, value=None, nonfinite=which, step=step, epoch=epoch)  # type: ignore[arg-type]
