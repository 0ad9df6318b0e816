"""Puts the tables and the picture of a race into the documentation, between two marks.

python benchmarks/peers/race_page.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import msgspec
from race_tables import Heat, markdown

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def main() -> None:
    """Rewrites the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results" / "race.json")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks" / "race.md")
    options = parser.parse_args()
    report = json.loads(options.results.read_bytes())
    heats = msgspec.convert(report["heats"], list[Heat])
    before, _, rest = options.page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, f"{options.page} lacks {BEGIN} or {END}"
    command = f"`{report['command']}`, on {report['machine']['processor'] or 'an unknown processor'}:"
    picture = "![Scores on test over seconds of training, a line per library](../images/race.png)"
    text = f"{before}{BEGIN}\n{command}\n\n{picture}\n\n{markdown(heats)}\n{END}{after}"
    options.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
