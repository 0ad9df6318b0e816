"""What publishes a release fits the project: workflows, issue forms, citation, extras, links."""

from __future__ import annotations

import re
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import check_dist
import prepare_release
from commands import run_python
from twotower.version import VERSION

ROOT = Path(__file__).parents[1]
RELEASE = (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")
SCHEMAS = {
    "vendor.github-workflows": ".github/workflows/*.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/[!c]*.yml",
    "vendor.github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "vendor.citation-file-format": "CITATION.cff",
    "vendor.compose-spec": "deploy/compose.yaml",
}


@pytest.mark.skipif(find_spec("check_jsonschema") is None, reason="check-jsonschema is not installed")
@pytest.mark.parametrize(("schema", "pattern"), SCHEMAS.items())
def test_files_that_other_programs_read_follow_their_schema(schema: str, pattern: str) -> None:
    files = sorted(ROOT.glob(pattern))
    assert files
    checked = run_python("-m", "check_jsonschema", "--builtin-schema", schema, *files)
    assert checked.returncode == 0, checked.stdout


def test_every_extra_is_tried_alone_before_a_release() -> None:
    found = re.search(r"extra: \[(.+)\]", RELEASE)
    assert found is not None
    assert set(found[1].split(", ")) == check_dist.USES.keys() == check_dist.declared_extras()


def test_the_citation_and_the_changelog_are_of_this_version() -> None:
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_readme_of_a_release_has_no_relative_link() -> None:
    readme = prepare_release.with_absolute_links(
        (ROOT / "README.md").read_text(encoding="utf-8"), "https://github.com/me/twotower", "v1.0.0"
    )
    assert re.findall(r"\]\((?!https?://)[^)]*\)", readme) == []
    assert "(https://github.com/me/twotower/raw/v1.0.0/docs/images/study.png)" in readme
    assert "(https://github.com/me/twotower/blob/v1.0.0/CHANGELOG.md)" in readme


def test_badges_link_the_workflow_and_not_a_file() -> None:
    badge = "[![tests](../../actions/workflows/tests.yml/badge.svg)](../../actions/workflows/tests.yml)"
    site = "https://github.com/me/twotower"
    page = f"{site}/actions/workflows/tests.yml"
    assert prepare_release.with_absolute_links(badge, site, "v1.0.0") == f"[![tests]({page}/badge.svg)]({page})"


def test_release_notes_are_the_section_of_the_version() -> None:
    changelog = "# Changelog\n\n## Unreleased\n\n## 0.2.0 - 2026-01-02\n\n- New.\n\n## 0.1.0 - 2026-01-01\n\n- First.\n"
    assert prepare_release.notes_of(changelog, "0.2.0") == "- New.\n"
    with pytest.raises(SystemExit, match=r"no section 0\.3\.0"):
        prepare_release.notes_of(changelog, "0.3.0")


def test_the_readme_names_the_oldest_python_that_works() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=")
    assert f"Python {oldest} or later" in (ROOT / "README.md").read_text(encoding="utf-8")
