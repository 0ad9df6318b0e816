"""`twotower serve`: serves a bundle over HTTP."""

from __future__ import annotations

import ipaddress
import os
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from twotower.cli.options import ImportOption
from twotower.errors import ConfigError
from twotower.processes import threads_each
from twotower.retrieval import Retriever
from twotower.retrieval.bundle import Engine
from twotower.serving.copies import Copies
from twotower.serving.hosts import Hosts
from twotower.serving.running import listening, run
from twotower.serving.served import Served
from twotower.serving.service import Service
from twotower.serving.settings import Settings, checked_token, read_token
from twotower.serving.workers import Workers

TOKEN = "TWOTOWER_TOKEN"

THREADS = 4
"""Most threads per search by default: memory bandwidth limits the gain from more."""

AllowedHostOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A host name to answer to, besides its own address; *.NAME for subdomains, * for any. Repeatable.",
    ),
]

ThreadsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help=f"Threads per search, fewer while other programs keep cores busy. Default: a process's share of the "
        f"allowed threads, up to {THREADS}.",
    ),
]

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def serve(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle written by `twotower bundle` or `train`.")],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 for a free one.")] = 8000,
    allowed_host: AllowedHostOption = None,
    token_file: Annotated[
        Path | None, typer.Option(help=f"A file with the token that requests need; or set {TOKEN}.")
    ] = None,
    watch: Annotated[
        float, typer.Option(min=0.0, help="Seconds between checks for a new bundle; 0: only on POST /v1/reload.")
    ] = 0.25,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds allowed for a request's headers, its body and its answer, each.")
    ] = 10.0,
    drain: Annotated[float, typer.Option(min=1.0, help="Seconds for requests in flight at shutdown.")] = 10.0,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that answer; they share the bundle's embeddings in memory.")
    ] = 1,
    threads: ThreadsOption = None,
    engine: Annotated[
        str, typer.Option(help="What embeds queries: torch, or onnx for a bundle made with --onnx.")
    ] = "torch",
    store: Annotated[
        str | None, typer.Option(help="The store's address as seen from here, if it differs from the bundle's.")
    ] = None,
    imports: ImportOption = None,
) -> None:
    """Serve a bundle over HTTP, with a page at / to try it on.

    New bundles at the same path are checked and swapped in while it serves; a damaged one is refused and the old one
    stays. SIGTERM ends it after the requests in flight.
    """
    del imports  # imported before the bundle is read
    token = _token(token_file)
    hosts = Hosts.listening_at(host, allowed_host or ())
    settings = Settings(token=token, seconds=timeout, watch_seconds=watch or None, drain_seconds=drain, hosts=hosts)
    load = partial(Retriever.load, engine=_engine(engine), store=store)
    threads = min(THREADS, threads_each(workers)) if threads is None else threads

    def service(copies: Copies | None = None) -> Service:
        return Service(Served(bundle, load, copies), settings)

    alone = service() if workers == 1 else None  # first, so that a bundle that cannot be served is refused at once
    console = Console(stderr=True)
    if token is None and not _is_loopback(host):
        _warn_of_open_address(console, host)
    with listening(host, port) as listener:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
        said = f"serving {bundle} at {address} (Ctrl-C to stop)"
        console.print(said, highlight=False, markup=False, soft_wrap=True)
        if alone is not None:
            run(alone, listener, threads)
        else:
            Workers(workers, service, listener, threads).run()


def _warn_of_open_address(console: Console, host: str) -> None:
    console.print(
        f"[yellow]warning:[/] {host} can be reached from other machines, and there is no token: anybody there can send "
        f"requests and see what queries have chosen. Pass --token-file, or set {TOKEN}",
        highlight=False,
        soft_wrap=True,
    )


def _engine(name: str) -> Engine:
    try:
        engine: Engine = msgspec.convert(name, Engine)
    except msgspec.ValidationError as error:
        raise ConfigError(f"--engine {name!r}; expected torch or onnx") from error
    return engine


def _token(file: Path | None) -> str | None:
    if file is not None:
        return read_token(file)
    return checked_token(os.environ[TOKEN], TOKEN) if TOKEN in os.environ else None


def _is_loopback(host: str) -> bool:
    """Whether an address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
