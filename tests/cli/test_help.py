"""The help of every command says all that was written, and comes at once."""

from __future__ import annotations

import gc
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import twotower
from twotower.cli.main import COMMANDS, app, imported
from twotower.startup import INTERRUPTED, stop_collecting


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    yield (), typer.main.get_command(app)
    for name in COMMANDS:
        command = imported(name)
        yield (name,), command
        for inner, part in getattr(command, "commands", {}).items():
            yield (name, inner), part


def words_of(text: str) -> str:
    """The text without the marks that only say how it looks, and without its line breaks."""
    return re.sub(r"[\s│]+", " ", text.replace("`", "")).strip()


@pytest.mark.parametrize(("path", "command"), list(commands()), ids=str)
def test_nothing_in_brackets_is_swallowed(path: tuple[str, ...], command: Any) -> None:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "1000", "TERM": "dumb"})
    assert result.exit_code == 0
    shown = words_of(result.output)
    texts = [inspect.cleandoc(command.help or "").split("\f")[0]]
    texts += [parameter.help for parameter in command.params if getattr(parameter, "help", None)]
    for text in texts:
        for paragraph in text.split("\n\n"):
            assert words_of(paragraph) in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_own_help_begins_with(name: str) -> None:
    assert imported(name).help.partition("\n\n")[0] == COMMANDS[name][1]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["studdy"]], ids=" ".join)
def test_what_needs_no_command_does_not_wait_for_libraries(arguments: list[str]) -> None:
    source = (
        "import sys\n"
        "from twotower.cli.main import run\n"
        "try:\n"
        "    run()\n"
        "finally:\n"
        "    assert not {'torch', 'pyarrow', 'numpy', 'matplotlib'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", source, *arguments], capture_output=True, text=True, check=False)
    assert "AssertionError" not in done.stderr
    assert done.returncode == (2 if arguments == ["studdy"] else 0)
    assert ("Did you mean 'study'?" in done.stderr) == (arguments == ["studdy"])


def test_ctrl_c_while_a_command_loads_ends_it_quietly(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import time\nprint('loading', flush=True)\ntime.sleep(60)\n")
    paths = [str(tmp_path), str(Path(twotower.__file__).parents[1])]
    process = subprocess.Popen(
        [sys.executable, "-m", "twotower", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),  # a background job ignores it
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == INTERRUPTED


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("twotower se", {"serve"}),
        ("twotower candidates ", {"add", "withdraw"}),
        ("twotower serve --to", {"--token-file"}),
    ],
)
def test_the_shell_completes_commands_and_options(line: str, offered: set[str]) -> None:
    words = line.split()
    environment = {
        "_TWOTOWER_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - (line[-1] != " ")),
    }
    result = CliRunner().invoke(app, [], prog_name="twotower", env=environment)
    assert set(result.stdout.split()) == offered


def test_garbage_is_collected_again_once_a_command_begins() -> None:
    stop_collecting()
    try:
        assert CliRunner().invoke(app, ["doctor", "--help"]).exit_code == 0
        assert gc.isenabled()
    finally:
        gc.enable()
