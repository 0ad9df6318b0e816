"""`twotower` and `python -m twotower`: the command line."""

from __future__ import annotations

from twotower.startup import exit_on_interrupt, stop_collecting


def main() -> None:
    """Runs the command line; until a command begins, Ctrl-C ends it quietly."""
    exit_on_interrupt()
    stop_collecting()
    from twotower.cli.main import run  # after that, as it takes a while

    run()


if __name__ == "__main__":
    main()
