"""The live page in headless Chromium, from disk and without a network, compared with `ClipSearch`."""

import sys
import unicodedata
from html.entities import html5

import numpy as np
import pytest

from tests.browser import CONTRAST, PLAY, opened
from tests.explore.conftest import NAMES, TWINS, VOCABULARY

TOP = 10
RANKED = """([query, top]) => {
  const { scores, order } = ranked(termsOf(wordsOf(query)));
  return order.slice(0, top).map(clip => [clips[clip].name, scores[clip]]);
}"""
ODD_TEXTS = [
    *("", " ", "–", "-", "Dog!", "A dog's bark", "co-operate", "walkie-talkie", "“Rain”, ‘rain’ «rain» ‹rain›"),
    *("x\u00a0y\u2003z", "so\u00adft hy\u200bphen\ufeff", "ΟΔΟΣ ΣΑΣ. Σ", "İSTANBUL ISTANBUL ıı", "STRASSE straße ẞ"),
    *(
        "\u200edog\u200f d\u2066o\ufe0fg",
        "dog… dog。 ´dog dog´ 「dog」 ¿dog? ≮ =\u0338 dog™ ♪",
        "☎\ufe0f 1\ufe0f\u20e3 \u0301a a \u0301",
    ),
    *(
        "dog&#39;s &amp;amp; &Eacute; &#xE9; &nbsp;&NewLine;&bsol;&notit; AT&T; &#; &lt;/textarea&gt;",
        "&lt;b&gt; &#x0; &#1;",
    ),
    *("ǅ ǆ ﬁre ﬀ", "雨\u3000雨", "🐕 barks", "e\u0301 é É", "100% #1 a&b <b>loud</b> \\ / ^ [x] {y} | ~ `"),
    *("--a--", "tab\tnew\nline\r\x1c\x1f\x85\u2028\u2029end", "__proto__ constructor toString", "<pad> NE ne"),
]


@pytest.fixture
def open_page(browser, pages):
    """open_page(words, fragment) -> a new page. Fails on requests that fail or leave the disk, and on messages."""
    found = []

    def open_page(words="mean", fragment="", **options):
        found.append(opened(browser, pages[words].as_uri() + fragment, **options))
        return found[-1][0]

    yield open_page
    for page, _, _ in found:
        page.context.close()
    for _, requests, complaints in found:
        assert complaints == [] and all(url.startswith(("file:", "data:")) for url in requests)


def queries():
    """200 of 1 to 8 words of the captions' vocabulary; some repeat a word, some hold an unknown one."""
    rng = np.random.default_rng(0)
    words = [word for word in VOCABULARY[1:] if "<" not in word]
    texts = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(160)]
    texts += [f"{text}, {text.upper()}" for text in texts[:20]] + [f"Xylophone: {text}?" for text in texts[20:40]]
    return texts


def shown(page):
    """The names of the hits."""
    return [name.inner_text() for name in page.query_selector_all("#hits button.name")]


def cells_of(part):
    """The rows of a part's tables, cell by cell."""
    return [[cell.inner_text() for cell in row.query_selector_all("th, td")] for row in part.query_selector_all("tr")]


@pytest.mark.parametrize("words", ["mean", "idf"])
def test_the_page_ranks_as_the_search(open_page, searches, words):
    page = open_page(words)
    texts = queries()
    assert len(texts) == 200
    for text in texts:
        names, scores = zip(*page.evaluate(RANKED, [text, TOP]), strict=True)
        hits = searches[words].by_text(text, TOP)
        assert list(names) == [hit.path.name for hit in hits], text
        assert scores == pytest.approx([hit.score for hit in hits], abs=1e-5)


def test_each_key_press_ranks_the_clips(open_page, searches):
    page = open_page()
    assert shown(page) == NAMES[:20] and page.inner_text("#count") == "30 clips, in the split's order"
    page.type("#query", "rain d")
    assert shown(page) == [hit.path.name for hit in searches["mean"].by_text("rain", 20)]
    page.type("#query", "og")
    hits = searches["mean"].by_text("rain dog", len(NAMES))
    assert shown(page) == [hit.path.name for hit in hits[:20]]
    assert page.inner_text("#count") == "30 clips, ranked by 2 words" and page.inner_text("#read") == ""
    page.click("#more")
    assert shown(page) == [hit.path.name for hit in hits] and page.is_hidden("#more")
    assert abs(shown(page).index(NAMES[TWINS[0]]) - shown(page).index(NAMES[TWINS[1]])) == 1


def test_queries_are_cleaned_as_captions(open_page, searches):
    page, rng = open_page(), np.random.default_rng(0)
    letters = [chr(code) for code in range(sys.maxunicode + 1)]
    # cased letters and what separates words; the others, mostly ideographs, pass both sides unchanged
    letters = [letter for letter in letters if unicodedata.category(letter) not in ("Cn", "Co", "Cs", "Lo")]
    tokens_of_search = [searches["mean"].scorer.tokens(f"a{letter}B {letter}") for letter in letters]
    tokens_of_page = page.evaluate("letters => letters.map(letter => wordsOf(`a${letter}B ${letter}`))", letters)
    assert [pair for pair in zip(tokens_of_page, tokens_of_search, strict=True) if pair[0] != pair[1]] == []
    odd = sorted(set("".join(ODD_TEXTS)) | set("ΣσςİıẞßK"))
    texts = ODD_TEXTS + [f"a&{entity}b" for entity in html5] + [f"a&#{code};b" for code in range(0x300)]
    texts += ["".join(rng.choice(odd, rng.integers(1, 30))) for _ in range(2000)]
    tokens = page.evaluate("texts => texts.map(wordsOf)", texts)
    assert tokens == [searches["mean"].scorer.tokens(text) for text in texts]


def test_corrections_are_made(open_page):
    page = open_page()
    page.evaluate("correctionOf.set('rian', 'rain').set('dogbarks', 'dog barks').set('a', '')")
    assert page.evaluate("wordsOf('a Rian, dogbarks')") == ["rain", "dog", "barks"]


@pytest.mark.parametrize("words", ["mean", "idf"])
def test_bars_add_up_to_the_score(open_page, searches, words):
    page = open_page(words, "#q=rain+dog+rain")
    hits, search = searches[words].by_text("rain dog rain", 20), searches[words]
    word_weights = np.ones(len(VOCABULARY)) if words == "mean" else search.score.idf.numpy()
    rows = [VOCABULARY.index("rain"), VOCABULARY.index("dog")]
    weights = np.array([2, 1]) * word_weights[rows]
    adds = []
    for hit, card in zip(hits, page.query_selector_all("#hits li"), strict=True):
        values = search.stored.scores[:, search.stored.fids.index(hit.fid)][rows]
        parts = weights * values / weights.sum()
        cells = cells_of(card)
        assert [row[0] for row in cells] == ["rain ×2", "dog"]
        assert [float(row[2]) for row in cells] == pytest.approx(values, abs=6e-4)
        assert [float(row[3].removesuffix(" %")) for row in cells] == pytest.approx(100 * parts / parts.sum(), abs=0.6)
        assert f"score {hit.score:.4f}" in card.inner_text()
        adds.append((parts, [bar.bounding_box()["width"] for bar in card.query_selector_all(".bar i")]))
    parts, widths = (np.array(side) for side in zip(*adds, strict=True))
    whole = page.query_selector(".bar").bounding_box()["width"]
    np.testing.assert_allclose(widths / whole, parts / parts.max(), atol=0.02)


def test_unknown_words_are_struck_through_beside_suggestions(open_page, searches):
    page = open_page()
    page.type("#query", "Dgo and rian, zzzzzz!")
    assert [word.inner_text() for word in page.query_selector_all("#read s")] == ["dgo", "and", "rian", "zzzzzz"]
    assert page.inner_text("#count").startswith("30 clips, in the split's order")
    assert page.evaluate("nearest('rian')") == ["rain"] and page.evaluate("nearest('zzzzzz')") == []
    assert page.evaluate("nearest('rai')") == ["rain", "rainy", "raining"]
    assert page.evaluate("[distance('rian', 'rain'), distance('', 'abc'), distance('kitten', 'sitting')]") == [1, 3, 3]
    page.click("#read a >> text=rain")
    page.wait_for_function("document.getElementById('query').value === 'dgo and rain zzzzzz'")
    assert page.evaluate("document.activeElement.id") == "query"
    assert shown(page) == [hit.path.name for hit in searches["mean"].by_text("rain", 20)]
    assert searches["mean"].unknown_words("dgo and rain zzzzzz") == ["dgo", "and", "zzzzzz"]
    assert page.text_content("#count") == "30 clips, ranked by 1 word; unknown: dgo, and, zzzzzz"


def test_the_address_keeps_the_query_and_back_restores_it(open_page):
    page = open_page(fragment="#q=rain+%26+%22dog%22")
    assert page.input_value("#query") == 'rain & "dog"' and page.inner_text("#count").endswith("ranked by 2 words")
    first = shown(page)
    page.fill("#query", "über 100 %?")
    page.keyboard.press("Enter")
    address = page.url
    page.fill("#query", "straße")
    page.wait_for_function("location.hash === '#q=stra%C3%9Fe'")  # after a pause, without Enter
    third = shown(page)
    page.go_back()
    page.wait_for_function("document.getElementById('query').value === 'über 100 %?'")
    page.go_back()
    page.wait_for_function("""document.getElementById('query').value === 'rain & "dog"'""")
    assert shown(page) == first
    page.go_forward()
    page.go_forward()
    page.wait_for_function("document.getElementById('query').value === 'straße'")
    assert shown(page) == third
    assert open_page(fragment="#" + address.partition("#")[2]).input_value("#query") == "über 100 %?"
    assert open_page(fragment="#q=%").input_value("#query") == "%"


def test_arrow_keys_move_through_the_hits(open_page):
    page = open_page()
    focus = "document.activeElement.id || document.activeElement.textContent"
    assert page.evaluate(focus) == "query"
    page.keyboard.type("rain")
    names = shown(page)
    for key, expected in (("ArrowDown", 0), ("ArrowDown", 1), ("ArrowRight", 2), ("ArrowUp", 1), ("ArrowDown", 2)):
        page.keyboard.press(key)
        assert page.evaluate(focus) == names[expected]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid" and page.evaluate("document.activeElement.matches(':focus-visible')")
    page.keyboard.press("Enter")
    assert page.is_visible("#clip") and page.inner_text("#clip-name") == names[2]
    page.keyboard.press("Escape")
    assert page.is_hidden("#clip") and page.evaluate(focus) == names[2]
    page.keyboard.press("Escape")
    assert page.evaluate(focus) == "query" and page.input_value("#query") == "rain"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focus) == "query"
    for _ in range(12):
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#hits') !== null")


def test_a_clip_shows_its_words_and_captions(open_page, searches):
    page, stored = open_page(fragment="#q=dog"), searches["mean"].stored
    page.click("#hits button.name >> nth=0")
    page.evaluate("list.replaceChildren()")  # the hits, behind it
    name, scores = page.inner_text("#clip-name"), stored.scores[()]
    clip = NAMES.index(name)
    above = scores[1:, clip] - scores[1:].mean(axis=1)
    expected = [VOCABULARY[1 + i] for i in np.argsort(-above, kind="stable")[:12]]
    lines = cells_of(page)
    assert [line[0] for line in lines] == expected
    assert [float(line[2]) for line in lines] == pytest.approx(
        [scores[VOCABULARY.index(word), clip] for word in expected], abs=6e-4
    )
    captions = page.query_selector_all("#clip-captions li")
    assert len(captions) == 5
    for caption in captions:
        assert ("its own" in caption.inner_text()) == (f'"{name}"' in caption.inner_text())
    page.wait_for_function("document.getElementById('clip-picture').naturalHeight === 64")
    assert page.get_attribute("#clip-picture", "alt").startswith(f"Log-mel of {name}: 0.5 s")
    page.click("#clip-words a >> nth=0")
    page.wait_for_function("word => document.getElementById('query').value === word", arg=expected[0])
    assert page.is_hidden("#clip")
    page.click("#hits button.name >> nth=0")
    page.click("#clip-close")
    assert page.is_hidden("#clip")


@pytest.mark.parametrize("words", ["mean", "idf"])  # copied, linked
def test_every_sound_plays_one_at_a_time(open_page, words):
    page = open_page(words)
    page.click("#more")
    players = page.query_selector_all("#hits audio")
    assert len(players) == len(NAMES)
    for player in players:
        time, duration, error = player.evaluate(PLAY)
        assert time > 0 and duration == pytest.approx(0.5, abs=0.05) and error is None, player.get_attribute("src")
    for player in players[:2]:
        player.evaluate("player => { player.loop = true; return player.play(); }")
    page.wait_for_function("[...document.querySelectorAll('audio')].filter(player => !player.paused).length === 1")
    page.evaluate("openClip(0)")
    assert page.locator("#clip-sound").evaluate(PLAY)[0] > 0
    assert page.is_visible("#clip-time")


def test_odd_names_are_shown_literally(open_page):
    page = open_page()
    assert shown(page) == NAMES[:20]
    assert page.query_selector("#hits script") is None and page.query_selector("img[onerror]") is None
    assert [player.get_attribute("aria-label") for player in page.query_selector_all("#hits audio")] == NAMES[:20]


def test_a_phone_scrolls_vertically_only(open_page):
    page = open_page(fragment="#q=rain+supercalifragilistic+" + 30 * "x" + "+" + 200 * "y", width=375)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    page.click("#hits button.name >> nth=0")
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate("at('clip').scrollWidth <= at('clip').clientWidth")


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_text_stands_out_on_light_and_dark_pages(open_page, colours):
    page = open_page(fragment="#q=rain+xylophone+bark", colours=colours)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 23, 28)") == (colours == "dark")
    assert page.evaluate(CONTRAST) >= 4.5
    page.click("#hits button.name >> nth=0")
    assert page.evaluate(CONTRAST) >= 4.5


def test_screen_readers_get_names_and_the_count(open_page):
    page = open_page(fragment="#q=rain")
    assert page.get_by_label("Describe a sound").input_value() == "rain"
    assert page.get_by_role("status").inner_text() == "30 clips, ranked by 1 word"
    assert page.get_by_role("searchbox").count() == 1 and page.get_by_role("search").count() == 1
    page.click("#hits button.name >> nth=0")
    name = "part.textContent.trim() || part.ariaLabel || part.getAttribute('aria-labelledby')"
    parts = "[...document.querySelectorAll('button, a, audio, table, dialog')]"
    assert page.evaluate(f"{parts}.filter(part => !({name})).length") == 0
