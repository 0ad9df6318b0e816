"""The hook of `mkdocs.yml`: adds generated pages and repository files that pages link to, and mends the theme's HTML.

Pages link to files outside `docs/` by their path in the repository (`../../examples/own_log.toml`). The site has copies
of those folders at its root; links are rewritten to them, so that they work in both places.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from command_line import command_line_page
from config_keys import config_keys_page
from http_api import http_page
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("examples", "benchmarks/studies")
"""Folders of the repository that pages link to."""

SEARCH = 'data-md-component="search" role="dialog"'

PAGES = {
    "reference/cli.md": command_line_page,
    "reference/config-keys.md": config_keys_page,
    "reference/http.md": http_page,
}
"""Generated pages by their path in the site."""


def on_files(files: Any, config: Any) -> Any:
    """Adds files that are not in `docs/`."""
    for address, page in PAGES.items():
        files.append(File.generated(config, address, content=page()))
    for folder in COPIED:
        for path in sorted((ROOT / folder).rglob("*.*")):
            if path.suffix in (".py", ".toml", ".ipynb"):
                address = path.relative_to(ROOT).as_posix()
                files.append(File.generated(config, address, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Rewrites links out of `docs/` to the copies."""
    return re.sub(rf"\]\(((?:\.\./)*)\.\./({'|'.join(COPIED)})/", r"](\1\2/", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Links each figure to its file, where it can be enlarged."""
    return re.sub(r'<img [^>]*src="([^"]+)"[^>]*>', r'<a class="figure" href="\1">\g<0></a>', html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Names the search dialog, which the theme leaves without a name, and says which pages are Chinese."""
    output = output.replace(SEARCH, f'{SEARCH} aria-label="Search"')
    return output.replace('<html lang="en"', '<html lang="zh"', 1) if page.file.src_uri.endswith(".zh.md") else output
