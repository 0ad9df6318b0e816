"""The page, driven in Chromium as a person would."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from two_stages import two_stage_log, two_stage_model
from twotower import Rerank, Retriever

playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra dev")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium")

HOSTILE = "<img src=x"


class Running:
    """A service of this process on a port of its own."""

    def __init__(self, bundle: Path, token: str | None = None) -> None:
        import uvicorn

        from twotower.serving.served import Served
        from twotower.serving.service import Service
        from twotower.serving.settings import Settings

        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}/"
        service = Service(Served(bundle), Settings(token=token, watch_seconds=None))
        self.server = uvicorn.Server(uvicorn.Config(service, log_config=None, ws="none"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def end(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()


@pytest.fixture(scope="module")
def address(saved_bundle: Path) -> Iterator[str]:
    running = Running(saved_bundle)
    yield running.address
    running.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A tab that fails its test where the console complains, or something is asked for elsewhere."""
    complaints: list[str] = []
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text) if is_complaint(message) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: None if is_own(request.url, address) else complaints.append(request.url))
    yield page
    context.close()
    assert complaints == []


def is_complaint(message: Any) -> bool:
    """Whether it is an error; that a request was refused is none of the page."""
    return message.type == "error" and not any(text in message.text for text in ("status of 400", "ERR_FAILED"))


def is_own(url: str, address: str) -> bool:
    return url.startswith((address, "data:"))


def titles(page: Any, count: int = 10) -> list[str]:
    """The titles recommended, once there are so many."""
    playwright.expect(page.locator("#results .result")).to_have_count(count)
    playwright.expect(page.locator("#results")).not_to_have_class("plain busy")
    found: list[str] = page.locator("#results .title").all_text_contents()
    return found


def test_pick_filter_explain_and_similar(page: Any, address: str, retriever: Any) -> None:
    page.goto(address)
    playwright.expect(page.locator("#basis")).to_contain_text("most popular")
    page.fill("#who", "3")
    page.locator("#who-list [role=option]").first.click()
    playwright.expect(page.locator("#results-heading")).to_have_text("For 3")
    expected = [one.candidate["title"] for one in retriever.recommend({"user": 3}, 10, exclude_seen=True)]
    assert titles(page) == expected
    playwright.expect(page.locator("#about")).to_contain_text("Ulm")
    shown = [retriever.candidates["title"][one].as_py() for one in retriever.history_of(3)[:8]]
    playwright.expect(page.locator("#history li")).to_have_text(shown)

    page.click("#filters summary")
    page.get_by_role("button", name="Comedy", exact=True).click()
    page.get_by_label("year: from 1990").fill("1993")
    page.get_by_label("year: from 1990").press("Enter")
    playwright.expect(page.locator("#where")).to_have_value('year >= 1993 and genres contains "Comedy"')
    left = retriever.recommend({"user": 3}, 10, exclude_seen=True, where='year >= 1993 and genres contains "Comedy"')
    assert titles(page, len(left)) == [one.candidate["title"] for one in left]
    page.click("#where-clear")
    titles(page)

    page.locator("#results .result").first.get_by_text("Why?").click()
    why = page.locator("#results .why").first
    playwright.expect(why.locator(".share").first).to_be_visible()
    explanation = retriever.explain({"user": 3}, retriever.recommend({"user": 3}, 10, exclude_seen=True)[0].id)
    playwright.expect(why).to_contain_text(f"Total {explanation.score:.3f}")

    page.locator("#results .result").first.get_by_text("Similar").click()
    playwright.expect(page.locator("#results-heading")).to_have_text(f"Similar to {expected[0]}")
    titles(page)
    page.go_back()
    assert titles(page) == expected


def test_a_condition_that_cannot_be_read_is_explained(page: Any, address: str) -> None:
    page.goto(address + "#query=3")
    titles(page)
    page.click("#filters summary")
    page.fill("#where", "year >")
    page.press("#where", "Enter")
    playwright.expect(page.locator("#where-error")).to_be_visible()
    playwright.expect(page.locator("#where")).to_have_attribute("aria-invalid", "true")
    page.fill("#where", "")
    page.press("#where", "Enter")
    titles(page)


def test_everything_from_the_keyboard(page: Any, address: str) -> None:
    page.goto(address)
    titles(page)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    for _ in range(12):
        if page.evaluate("document.activeElement.id") == "who":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    playwright.expect(page.locator("#who-list [aria-selected=true]")).to_have_text("0")
    page.keyboard.press("ArrowDown")
    playwright.expect(page.locator("#who")).to_have_attribute("aria-activedescendant", "who-list-1")
    page.keyboard.press("Escape")
    playwright.expect(page.locator("#who")).to_have_attribute("aria-expanded", "false")
    page.keyboard.press("ArrowDown")
    playwright.expect(page.locator("#who-list [aria-selected=true]")).to_have_text("0")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#results-heading")).to_have_text("For 0")
    playwright.expect(page.locator("#status")).to_contain_text("10 found")
    titles(page)
    reach(page, "Why ")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#results .why .share").first).to_be_visible()
    reach(page, "Similar to ")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#results-heading")).to_contain_text("Similar to ")
    assert page.evaluate("document.activeElement.id") == "results"
    playwright.expect(page.locator("#exclude-seen")).to_be_hidden()
    reach(page, "For 0", "Shift+Tab")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#results-heading")).to_have_text("For 0")
    playwright.expect(page.locator("#exclude-seen")).to_be_visible()


def reach(page: Any, label: str, key: str = "Tab") -> None:
    """Goes on by the keyboard to what has this label, which has to show that it has the focus."""
    for _ in range(40):
        page.keyboard.press(key)
        named = "(stop => stop.ariaLabel ?? stop.textContent)(document.activeElement)"
        if page.evaluate(named).startswith(label):
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            return
    raise AssertionError(f"nothing that {key} comes to is {label!r}")


def test_somebody_new_is_recommended_by_what_they_like(page: Any, address: str, retriever: Any) -> None:
    page.goto(address)
    page.click("#mode-new")
    playwright.expect(page.locator("#results-heading")).to_have_text("For a new user")
    page.fill("#liked", "number 12")
    playwright.expect(page.locator("#liked-list [role=option]")).to_have_count(1)
    page.press("#liked", "Enter")
    playwright.expect(page.locator("#basis")).to_contain_text("new")
    expected = [one.candidate["title"] for one in retriever.recommend({"history": [12]}, 10, exclude_seen=True)]
    assert titles(page) == expected
    page.select_option("#attribute-0", "Ulm")
    found = retriever.recommend({"history": [12], "city": "Ulm"}, 10, exclude_seen=True)
    playwright.expect(page.locator("#results .title")).to_have_text([one.candidate["title"] for one in found])


@pytest.fixture(scope="module")
def reranked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that re-ranks its best 12."""
    folder, log = tmp_path_factory.mktemp("served") / "reranked.tower", two_stage_log()
    Retriever.build(two_stage_model(), log.candidates, seen=log, rerank=Rerank(12)).save(folder)
    return folder


@pytest.fixture
def reranking_address(reranked: Path) -> Iterator[str]:
    running = Running(reranked)
    yield running.address
    running.end()


def test_the_order_is_refined_as_far_as_is_chosen(browser: Any, reranking_address: str, reranked: Path) -> None:
    retriever, page = Retriever.load(reranked), browser.new_page()
    page.goto(reranking_address + "#query=3")
    orders = {}
    for choice, n in (("best 12", 12), ("best 200", 200), ("off", None), ("best 12", 12)):
        page.get_by_label("Refine the order").select_option(label=choice)
        expected = retriever.recommend({"user": 3}, 10, exclude_seen=True, rerank=n)
        playwright.expect(page.locator("#results .title")).to_have_text([one.candidate["title"] for one in expected])
        orders[choice] = titles(page)
        first = page.locator("#results .result .score").first
        score, rerank_score = expected[0].score, expected[0].rerank_score
        said = f"score {score:.3f}" if rerank_score is None else f"rating {rerank_score:.3f} · match {score:.3f}"
        playwright.expect(first).to_have_text(said, ignore_case=True)
    assert orders["off"] != orders["best 12"] != orders["best 200"]
    page.close()


def test_without_a_head_there_is_no_order_to_refine(page: Any, address: str) -> None:
    page.goto(address + "#query=3")
    titles(page)
    playwright.expect(page.get_by_label("Refine the order")).to_be_hidden()


def test_a_title_is_never_markup(page: Any, address: str) -> None:
    page.goto(address + "#similar=7")
    playwright.expect(page.locator("#results-heading")).to_contain_text(HOSTILE)
    page.goto(address + "#similar=1")
    page.select_option("#k", "50")
    assert any(HOSTILE in title for title in titles(page, 29))
    assert page.title() == "twotower"
    assert page.locator("main img, main script").count() == 0


def test_a_title_stays_as_it_is_where_it_is_chosen_and_explained(page: Any, address: str, retriever: Any) -> None:
    page.goto(address + "#new=1")
    titles(page)
    page.fill("#liked", HOSTILE)
    playwright.expect(page.locator("#liked-list [role=option]")).to_contain_text(HOSTILE)
    page.press("#liked", "Enter")
    playwright.expect(page.locator("#liked-chosen li")).to_contain_text(HOSTILE)
    playwright.expect(page.locator("#basis")).to_contain_text("new")
    page.get_by_role("button", name="Why ").first.click()
    whole = retriever.candidates["title"][7].as_py()
    playwright.expect(page.locator("#results .why").first.get_by_text(whole, exact=True)).to_be_visible()
    assert page.locator("main img, main script").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("hash_", ["#query=3", "#new=1", "#similar=7", "#view=study"])
def test_a_phone_shows_it_without_scrolling_sideways(page: Any, address: str, hash_: str, scheme: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    page.goto(address + hash_)
    if hash_ == "#view=study":
        page.locator("#curves polyline").wait_for()
    else:
        titles(page)
        page.click("#filters summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    back, text = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    assert (lightness(back) > lightness(text)) == (scheme == "light")
    assert contrast(back, text) >= 4.5


def lightness(colour: str) -> float:
    """Relative luminance of `rgb(…)`, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Their contrast ratio, as WCAG 2 defines it."""
    dark, light = sorted((lightness(one), lightness(other)))
    return (light + 0.05) / (dark + 0.05)


def test_scores_are_beside_the_baselines(page: Any, address: str) -> None:
    page.goto(address)
    page.click("#to-study")
    playwright.expect(page.locator("#to-study")).to_have_attribute("aria-current", "page")
    playwright.expect(page.locator("#to-try")).not_to_have_attribute("aria-current", "page")
    playwright.expect(page.locator("#scores tbody tr")).to_have_count(1)
    playwright.expect(page.locator("#scores")).to_contain_text("0.500")
    playwright.expect(page.locator("#remarks")).to_have_text("It is good.")
    page.locator("#curves polyline").wait_for()
    line = page.locator("#curves polyline").get_attribute("points").split()
    assert len(line) == 3
    places = {text.text_content(): float(text.get_attribute("x")) for text in page.locator("#curves .epoch").all()}
    assert [places[epoch] for epoch in "123"] == pytest.approx([float(point.split(",")[0]) for point in line])


@pytest.mark.parametrize("width", [360, 1100])
def test_the_curves_can_be_read_at_any_width(page: Any, address: str, width: int) -> None:
    page.set_viewport_size({"width": 720, "height": 740})
    page.goto(address + "#view=study")
    page.locator("#curves polyline").wait_for()
    page.set_viewport_size({"width": width, "height": 740})
    page.wait_for_function(
        """() => {
            const drawn = document.querySelector("#curves svg");
            return Math.abs(drawn.getBoundingClientRect().width / drawn.viewBox.baseVal.width - 1) < 0.01;
        }"""
    )
    room = page.evaluate("document.querySelector('#curves').clientWidth")
    assert page.locator("#curves svg").bounding_box()["width"] == pytest.approx(min(736, room), abs=1)


def test_a_token_is_asked_for_once(browser: Any, saved_bundle: Path) -> None:
    running = Running(saved_bundle, token="sesame")
    try:
        context = browser.new_context()
        page = context.new_page()
        page.goto(running.address)
        page.fill("#token", "wrong")
        page.press("#token", "Enter")
        playwright.expect(page.locator("#token-dialog")).to_be_visible()
        page.fill("#token", "sesame")
        page.press("#token", "Enter")
        titles(page)
        page.reload()
        titles(page)
        context.close()
    finally:
        running.end()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("hash_", ["#query=3", "#new=1", "#view=study"])
def test_axe_finds_nothing(page: Any, address: str, hash_: str, scheme: str) -> None:
    """Checks of accessibility: names, roles, contrast and order of headings."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra dev").Axe()
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    page.goto(address + hash_)
    if hash_ == "#view=study":
        page.locator("#curves polyline").wait_for()
    else:
        titles(page)
    found = axe.run(page).response["violations"]
    assert [(one["id"], [node["html"][:120] for node in one["nodes"][:3]]) for one in found] == []


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("hash_", ["", "#view=study"])
def test_nothing_moves_while_the_page_loads(browser: Any, address: str, hash_: str, width: int) -> None:
    """Cumulative layout shift, of which Lighthouse calls up to 0.1 good."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.add_init_script(
        "window.moved = 0; const add = (list) => list.getEntries().forEach((one) => { moved += one.value; });"
        "new PerformanceObserver(add).observe({ type: 'layout-shift', buffered: true });"
    )
    page.goto(address + hash_)
    page.locator("#curves polyline" if hash_ else "#results .result").first.wait_for()
    page.wait_for_timeout(200)  # the observer hears of a shift a frame later
    assert page.evaluate("moved") <= 0.1
    page.close()


def test_scores_are_named_as_in_reports_and_the_oracle_is_not_the_best(page: Any, address: str) -> None:
    page.goto(address + "#view=study")
    page.locator("#scores tbody tr").first.wait_for()
    assert {"top-10 all", "top-10 unseen"} <= set(page.locator("#scores thead th").all_text_contents())
    rows = {row.locator("th").text_content(): row.text_content() for row in page.locator("#scores tbody tr").all()}
    assert "●" in "".join(rows[name] for name in rows if name != "oracle")
    assert "●" not in rows.get("oracle", "")


def test_a_service_that_is_away_is_said_with_a_way_to_try_again(page: Any, address: str) -> None:
    page.goto(address + "#query=3")
    titles(page)
    page.route("**/v1/recommend", lambda route: route.abort())
    page.select_option("#k", "5")
    playwright.expect(page.locator("#problem")).to_contain_text("Cannot reach the service")
    page.unroute("**/v1/recommend")
    page.get_by_role("button", name="Try again").click()
    titles(page)
