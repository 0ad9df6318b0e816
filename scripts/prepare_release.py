"""Prepares a checkout for a release: checks the tag, makes README links absolute, extracts notes from the changelog.

python scripts/prepare_release.py v0.1.0 https://github.com/OWNER/REPOSITORY

PyPI shows the README without the repository, so relative links and images would be broken.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\((?!https?://|#)([^)]+)\)")
"""The end of a relative link or image."""


def version_of(source: str) -> str:
    """The version in `version.py`."""
    found = re.search(r'^VERSION = "(.+)"$', source, re.MULTILINE)
    assert found is not None
    return found[1]


def with_absolute_links(readme: str, repository: str, tag: str) -> str:
    """The README with absolute links.

    Args:
        readme: The README's Markdown.
        repository: The repository's URL.
        tag: The tag to link to.

    Example:
        >>> with_absolute_links("[docs](docs/a.md)", "https://github.com/me/it", "v1.0.0")
        '[docs](https://github.com/me/it/blob/v1.0.0/docs/a.md)'
    """

    def absolute(link: re.Match[str]) -> str:
        path = link[1]
        if path.startswith("../../"):  # a page of the repository on GitHub, such as its workflows
            return f"]({repository}/{path.removeprefix('../../')})"
        return f"]({repository}/{'raw' if path.endswith(('.png', '.svg')) else 'blob'}/{tag}/{path})"

    return LINK.sub(absolute, readme)


def notes_of(changelog: str, version: str) -> str:
    """The changelog's section for a version.

    Raises:
        SystemExit: It has no section for that version.
    """
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)
    found = next((section for section in sections if re.match(rf"\[?{re.escape(version)}\b", section)), None)
    if found is None:
        raise SystemExit(f"CHANGELOG.md has no section {version}; rename Unreleased to '{version} - YYYY-MM-DD'")
    return found.partition("\n")[2].strip() + "\n"


def main(tag: str, repository: str) -> None:
    """Changes README.md and writes release-notes.md."""
    version = version_of((ROOT / "src/twotower/version.py").read_text(encoding="utf-8"))
    if tag != f"v{version}":
        raise SystemExit(f"the tag is {tag} but the version is {version}; expected the tag v{version}")
    notes = notes_of((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    (ROOT / "release-notes.md").write_text(notes, encoding="utf-8")
    readme = ROOT / "README.md"
    readme.write_text(with_absolute_links(readme.read_text(encoding="utf-8"), repository, tag), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
