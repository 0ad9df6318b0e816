"""`python -m twotower`: the command line."""

from twotower.cli.main import run

if __name__ == "__main__":
    run()
