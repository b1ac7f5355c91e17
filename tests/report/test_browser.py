"""The pages as a browser shows them: headless Chromium, from disk, without a network."""

from functools import cache

import numpy as np
import pytest

from tests.browser import CONTRAST, PLAY, opened
from tests.helpers import ODD_NAMES, write_finished
from utils.report.comparison import write_comparison


@pytest.fixture(scope="module")
def pages(report, tmp_path_factory):
    """The report, and a comparison of trials with long labels."""
    folder = tmp_path_factory.mktemp("browser")
    masked = ("score.mask_words=true", "word2vec_embeddings.source=file", f"word2vec_embeddings.file={'long_' * 20}")
    trials = [
        write_finished(folder, "one", "semi-hard-NS", 0),
        write_finished(folder, "two", "semi-hard-NS", 0, settings=masked),
        write_finished(folder, "collapsed", "hard-NS", 0, scores=np.ones((2, 10))),
    ]
    return {"report": report[2] / "report.html", "comparison": write_comparison(trials, folder / "compared")}


@pytest.fixture(scope="module")
def open_page(browser, pages):
    """open_page("report", width) -> the page, opened once and unfolded; its requests; its error messages.

    Only the last test may change it.
    """

    @cache
    def open_page(name, width=1280, colours="light"):
        page, requests, complaints = opened(browser, pages[name].as_uri(), width, colours)
        page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
        page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        return page, requests, complaints

    return open_page


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_page_renders_from_its_own_folder(open_page, pages, name):
    page, requests, complaints = open_page(name)
    assert complaints == []
    assert all(url.startswith((pages[name].parent.as_uri(), "data:")) for url in requests), requests
    images = page.evaluate("[...document.images].map(image => [image.naturalWidth, image.alt.length])")
    assert len(images) >= 6 and all(width > 0 and alt > 40 for width, alt in images)


def test_every_player_plays(open_page):
    page, _, complaints = open_page("report")
    players = page.query_selector_all("audio")
    first_of = {player.get_attribute("src"): player for player in players}
    assert len(players) >= 20 and len(first_of) == len(ODD_NAMES) + 2
    for source, player in first_of.items():
        time, duration, error = player.evaluate(PLAY)
        assert time > 0 and duration == pytest.approx(0.5, abs=0.05) and error is None, source
    assert page.evaluate("[...document.querySelectorAll('audio')].every(player => player.error === null)")
    assert complaints == []


def test_odd_names_are_shown_literally(open_page):
    page, _, _ = open_page("report")
    names = {name.inner_text() for name in page.query_selector_all("li .name")}
    assert names == set(ODD_NAMES)
    assert page.query_selector("script") is None and page.query_selector("img[onerror]") is None


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_on_a_phone_only_tables_scroll_sideways(open_page, name):
    page, _, _ = open_page(name, width=375)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    wide = page.evaluate(
        "[...document.querySelectorAll('.scroll')].map(part => [part.scrollWidth > part.clientWidth, part.tabIndex])"
    )
    assert any(scrolls for scrolls, _ in wide) and all(tab == 0 for _, tab in wide)


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_text_stands_out_on_light_and_dark_pages(open_page, name, colours):
    page, _, _ = open_page(name, colours=colours)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 23, 28)") == (colours == "dark")
    assert page.evaluate(CONTRAST) >= 4.5


def test_the_keyboard_reaches_links_folds_tables_and_players(open_page):
    page, _, _ = open_page("report")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.tagName"))
    assert {"A", "DIV", "SUMMARY", "AUDIO"} <= reached
    page.focus("summary")
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open") is False
