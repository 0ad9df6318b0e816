"""The page to try out a bundle: one handwritten file each of HTML, CSS and JavaScript."""

from __future__ import annotations

from importlib.resources import files as package_files

from twotower.serving.replies import Reply

MEDIA_TYPES = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}


def files() -> dict[str, Reply]:
    """The page's files by path."""
    folder = package_files(__name__)
    return {
        "/" if name == "page.html" else f"/{name}": Reply((folder / name).read_bytes(), media_type)
        for name, media_type in MEDIA_TYPES.items()
    }
