"""Work spread over processes of their own, one for each processor by default."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from typing import TypeVar

B = TypeVar("B")
R = TypeVar("R")


def in_processes(function: Callable[[B], R], batches: Sequence[B], *, processes: int | None = None) -> Iterator[R]:
    """What the function makes of each batch, as they come; one process is this one.

    Whoever stops asking, or interrupts, ends the work: nothing goes on behind them.
    """
    workers = min(processes or os.cpu_count() or 1, len(batches))
    if workers <= 1:
        yield from map(function, batches)
        return
    others = active_children()
    # An interrupt reaches the whole group; a worker that told of it would only bury what is said to the person.
    spawned = get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=spawned, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        try:
            for future in as_completed([pool.submit(function, batch) for batch in batches]):
                yield future.result()
        except BaseException:
            for worker in active_children():
                if worker not in others:
                    worker.terminate()  # or the batches that it has begun would be waited for
            raise
