"""`python forked_python.py ARGUMENTS`: runs `python ARGUMENTS` forked from the server of `commands`, ends as it does.

For programs that start Python themselves, such as torchrun. SIGTERM is passed on.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from commands import start_python


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        process = start_python(*sys.argv[1:], folder=Path(folder))
        signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        code = process.wait()
        sys.stdout.write(process.stdout.read_text(encoding="utf-8"))
        sys.stderr.write(process.stderr.read_text(encoding="utf-8"))
    return code


if __name__ == "__main__":
    ended = main()
    if ended < 0:  # killed by a signal
        os.kill(os.getpid(), -ended)
    sys.exit(ended)
