"""Every snippet of the README and of docs/ runs: a page is one session of a user in a folder like a fresh clone.

Blocks run in the order of the page, Python in one namespace. What would take minutes runs with less: `LESS` says what
is replaced. Installing and making is not run, but what is named has to exist.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from torch.distributed import run

from commands import Forked, run_python, start_python
from once import made_once
from twotower.recipes.config import Config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
THEME = {rule: {"enabled": False} for rule in ("landmark-unique", "scrollable-region-focusable")}
"""axe's rules on what the theme's script adds: copy buttons, and wide tables (keys scroll them all the same)."""
ADDRESS = "http://127.0.0.1:8000"

LESS = (
    (r"simulated\(\)", "simulated(300, 400, 6_000)"),
    (r"twotower doctor", "twotower doctor --no-benchmark"),
    (r"--minutes \d+", "--minutes 0.1"),
    (r"\bepochs( ?= ?)\d+", r"epochs\g<1>1"),
    (r"twotower study(?= *(#|$))", "twotower study quick.toml"),
    (r"(twotower study [^\n]*)--seeds \d+", r"\1--seeds 2"),
    (r"--layers( \d+(,\d+)*)+", "--layers 16,8"),
    (r"purchases: int = 20_000", "purchases: int = 4_000"),
    (r"(twotower study [^\n#]*)", r"\1 --layers 8 --epochs 1 "),
    (r"twotower study examples/movielens_table.toml", "twotower study quick.toml"),
    (r"twotower (study|tune|train) (movielens-100k|simulated)\b", r"twotower \1 quick.toml"),
    (r"(twotower tune [^\n#]*)", r"\1 --trials 1 "),
    (r"(twotower (?:train|study|tune|update) [^\n#]*)", r"\1 --baselines popularity "),
    (r"--split-seeds? 42 43 44 45 46", "--split-seeds 42"),
)
"""What is replaced so that a page runs in seconds: patterns and what stands in their place."""

QUICK = """
[data]
name = "simulated:300,400,6000"
[model]
layers = [8]
dim = 8
inputs = "log"
[training]
epochs = 1
batch_size = 4096
"""
"""A config that trains a small model for an epoch, in place of a built-in data set's name."""


@dataclass
class Session:
    """A user who works through one page.

    Attributes:
        folder: Where they are.
        names: What their Python session holds.
        servers: The services they started.
        ports: Where these listen, instead of at the address that the page says.
    """

    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "snippet"})
    servers: list[Forked] = field(default_factory=list)
    port: int = 0

    def python(self, source: str) -> None:
        exec(compile(source, "snippet", "exec"), self.names)

    def shell(self, source: str) -> None:
        for line in commands_of(source):
            program, *arguments = shlex.split(line, comments=True)
            if program == "pip":
                check_extras(arguments)
            elif program == "python3":
                assert arguments[:3] == ["-m", "venv", ".venv"]
            elif program == "make":
                check_target(arguments)
            elif program == "python" and arguments[0].startswith("benchmarks/"):
                self.check_options(arguments)
            elif program == "torchrun":
                self.run(alone(arguments))
            elif program == "twotower" and arguments[0] == "serve":
                self.serve(arguments)
            else:
                self.run(line)

    def run(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        if words[0] in ("twotower", "python") and not set("|<>&;$`") & set(line):
            arguments = ["-m", *words] if words[0] == "twotower" else words[1:]
            done = run_python(*arguments, cwd=self.folder)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        else:
            self.shell_line(line)

    def shell_line(self, line: str) -> None:
        line = re.sub(r"^twotower ", f"{shlex.quote(sys.executable)} -m twotower ", line)
        line = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", line)
        if line.startswith("curl "):
            line = line.replace("curl ", "curl --fail-with-body --silent --show-error --noproxy '*' ", 1)
            line = line.replace(ADDRESS, f"http://127.0.0.1:{self.port}")
        done = subprocess.run(["bash", "-c", line], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"

    def serve(self, arguments: list[str]) -> None:
        self.end()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        words = ("-m", "twotower", *arguments, "--port", self.port)
        process = start_python(*words, folder=self.folder, cwd=self.folder)
        self.servers.append(process)
        while not self.ready():
            assert process.poll() is None, process.stderr.read_text()
            time.sleep(0.1)

    def ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/v2/health/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def check_options(self, arguments: list[str]) -> None:
        """A benchmark has the options that the page gives it; it is not run."""
        help_text = help_of(arguments[0])
        subcommands = re.search(r"^  \{([\w,-]+)\}", help_text, re.MULTILINE)
        if subcommands and arguments[1] in subcommands[1].split(","):
            help_text = help_of(*arguments[:2])
        for option in (word for word in arguments if word.startswith("--")):
            assert option.split("=")[0] in help_text, f"{shlex.join(arguments)}: no option {option}"

    def end(self) -> None:
        for process in self.servers:
            process.send_signal(signal.SIGTERM)
            process.wait()
        self.servers.clear()


@cache
def help_of(*command: str) -> str:
    shown = run_python(*command, "--help", cwd=ROOT)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def commands_of(block: str) -> Iterator[str]:
    """The commands of a block: a line each, or several where a quote or a backslash goes on."""
    command = ""
    for line in block.splitlines():
        command += line
        if command.endswith("\\"):
            command = command[:-1]
            continue
        try:
            words = shlex.split(command, comments=True)
        except ValueError:  # a quote is open
            command += "\n"
            continue
        if words:
            yield command
        command = ""
    assert not command, f"unfinished: {command}"


def check_extras(arguments: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in re.findall(r"twotower\[([\w,]+)\]", " ".join(arguments)):
        assert set(name.split(",")) <= set(extras), f"no extra {name}"


def alone(arguments: list[str]) -> str:
    """The command that `torchrun` would start several of, once; torchrun has the options that the page gives it."""
    options = run.get_args_parser().parse_args(arguments)
    assert options.module
    return shlex.join([options.training_script, *options.training_script_args])


def check_target(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in (word for word in arguments if "=" not in word):
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"no target {target}"


@contextmanager
def clone(folder: Path) -> Iterator[Session]:
    """A session in a folder that has what a clone has and snippets use."""
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "examples" / "make_shop_log.py", *(folder / "examples").glob("*.toml")):
        path.write_text(shortened(path.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "quick.toml").write_text(QUICK)
    session = Session(folder)
    try:
        yield session
    finally:
        session.end()


def blocks_of(page: Path) -> list[tuple[str, str]]:
    text = page.read_text(encoding="utf-8")
    return [(found[1], found[2]) for found in BLOCK.finditer(text)]


def shortened(source: str) -> str:
    for pattern, less in LESS:
        source = re.sub(pattern, less, source, flags=re.MULTILINE)
    return source


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_snippets_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(page)
    monkeypatch.chdir(tmp_path)
    with clone(tmp_path) as session:
        for language, source in blocks:
            match language:
                case "python":
                    session.python(shortened(source))
                case "sh":
                    session.shell(shortened(source))
                case "toml":
                    msgspec.convert(tomllib.loads(source), Config)
                case "json":
                    json.loads(source)
                case other:
                    assert other in ("ini", "text", "mermaid"), f"a block of {other!r} that nothing runs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    if find_spec("mkdocs") is None:
        pytest.skip("the extra `docs` is not installed")

    def build(folder: Path) -> None:
        built = run_python("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder, cwd=ROOT)
        assert built.returncode == 0, built.stderr

    return made_once(tmp_path_factory, "site", build)


def test_the_site_builds_without_a_warning(site: Path) -> None:
    generated = {
        "reference/cli": "twotower recommend",
        "reference/config-keys": "label_smoothing",
        "reference/http": "/v1/recommend",
        "reference/api": "split_by_time",
    }
    for page, named in generated.items():
        assert named in (site / page / "index.html").read_text(encoding="utf-8"), page


def test_a_chinese_page_says_that_it_is(site: Path) -> None:
    assert '<html lang="zh"' in (site / "learn/first-model.zh/index.html").read_text(encoding="utf-8")
    assert '<html lang="en"' in (site / "learn/first-model/index.html").read_text(encoding="utf-8")


def test_the_site_is_accessible_and_fits_a_phone(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra dev")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra dev").Axe()
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: apt-get install chromium")
    found = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        kinds = "", "learn/first-model.zh/", "how-to/serve/", "reference/http/"
        for width, scheme, addresses in ((1280, "light", kinds[:1]), (390, "dark", kinds)):
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            for address in addresses:
                page.goto((site / address / "index.html").as_uri())
                assert page.evaluate("document.documentElement.scrollWidth") <= width, address
                violations = axe.run(page, options={"rules": THEME}).response
                found += [(address, one["id"], one["nodes"][0]["html"]) for one in violations["violations"]]
    assert found == []
