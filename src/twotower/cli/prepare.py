"""`twotower prepare`: sorts a streamed log before training."""

from __future__ import annotations

from typing import Annotated

import typer

from twotower.cli.options import ImportOption
from twotower.cli.output import console_for, write_json
from twotower.errors import ConfigError
from twotower.progress import Display
from twotower.recipes.config import config_of

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def prepare(
    source: Annotated[str, typer.Argument(metavar="CONFIG.toml", help="A config with stream = true in [data].")],
    imports: ImportOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON value to standard output.")] = False,
) -> None:
    """Sort a streamed log by query and time, once, before histories and splits need it.

    The result goes to a folder _twotower beside the log, or under TWOTOWER_DATA_HOME if that place is not writable.
    Rerun the command to resume. It needs the extra: pip install 'twotower[large]'.
    """
    del imports  # imported before the config is read
    data = config_of(source).data
    if not data.stream:
        raise ConfigError(f"[data] of {source} has no stream = true; expected a streamed log")
    log = data.open()
    console = console_for(json)
    with Display(console) as display:
        events = log.sorted_events(display)
    if json:
        write_json({"name": log.name, "events": len(events), "queries": len(events.queries)})
    else:
        said = f"{log.name}: prepared {len(events):,} events of {len(events.queries):,} queries"
        console.print(said, highlight=False, markup=False, soft_wrap=True)
