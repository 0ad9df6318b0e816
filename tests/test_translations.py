"""A translated page is as new as its original: each section carries the digest of the section it translates."""

from __future__ import annotations

import re
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRANSLATIONS = sorted([*ROOT.glob("*.zh.md"), *(ROOT / "docs").rglob("*.zh.md")])
BLOCKS = re.MULTILINE | re.DOTALL
MARK = re.compile(r"<!-- en: (\w+) -->")


def sections_of(page: Path) -> list[tuple[str, str]]:
    """(heading, text) of each section, what stands before the first under the page's title."""
    parts = re.split(r"^##? (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def digest(heading: str, text: str) -> str:
    return sha256(f"{heading}\n{text.strip()}".encode()).hexdigest()[:12]


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_no_section_of_a_translation_is_older_than_its_original(page: Path) -> None:
    original = sections_of(page.with_name(page.name.replace(".zh.md", ".md")))
    for english, translated in zip_longest(original, sections_of(page)):
        assert english is not None, f"{page.name}: section {translated[0]!r} has no original"
        assert translated is not None, f"{page.name}: section {english[0]!r} is not translated"
        expected, found = digest(*english), MARK.findall(translated[1])
        assert found == [expected], (
            f"{page.name}, section {translated[0]!r}: {english[0]!r} has changed since it was translated; "
            f"bring the section up to date, then mark it <!-- en: {expected} -->"
        )


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_a_translation_has_the_snippets_of_its_original(page: Path) -> None:
    """Which are run; only their comments are translated."""
    original, translated = (
        re.findall(r"^```.*?^```$", re.sub(r" +#.*$", "", own.read_text(encoding="utf-8"), flags=re.MULTILINE), BLOCKS)
        for own in (page.with_name(page.name.replace(".zh.md", ".md")), page)
    )
    assert translated == original
