"""The command line. What is heavy is imported when the interrupt of a person already has its answer."""

import signal
import sys

INTERRUPTED = 130


def run() -> None:
    """The console script."""
    try:
        from wardround.client.cli.main import ended

        code = ended()
    except KeyboardInterrupt:
        print("wardround: interrupted", file=sys.stderr)
        code = INTERRUPTED
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C changes nothing any more
    sys.exit(code)
