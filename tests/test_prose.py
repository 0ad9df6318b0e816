"""Prose keeps to phrases that readers know: what the project's style replaces does not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [page for page in sorted((ROOT / "docs").rglob("*.md")) if not page.name.endswith(".zh.md")]
COMMANDS = sorted((ROOT / "src/twotower/cli").glob("*.py"))

INSTEAD = {
    r"\banew\b": "rebuilt, again, from scratch",
    r"\bstrangers?\b": "unknown queries, untrusted sources",
    r"\bnobody knows\b": "unknown",
    r"\bgoes? on where\b": "resumes",
    r"\btold apart\b": "distinguished",
    r"\bof (?:one's|your|its|our) own\b.{0,3}(?:\bis\b|\bare\b)": "your own …",
    r"\btwo fifths\b": "40%",
    r"\bmay be left out\b": "is optional",
    r"\bwhat (?:lies|stands) (?:in|beside|behind)\b": "the contents, the neighbours",
    r"\bby turns\b": "alternately",
    r"\blies? (?:beyond|between)\b": "is outside, is between",
    r"\bnot to be had\b|\bcannot be had\b": "is unavailable",
    r"\bso many\b": "n, this many",
}
"""Patterns of house words and translated phrases, and what to write."""


@pytest.mark.parametrize("path", [*PAGES, *COMMANDS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_phrase_that_readers_stumble_on(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = [
        f"{match[0]!r}: write {instead}"
        for pattern, instead in INSTEAD.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert found == []
