"""From a training to its page, and the page in Chromium: clicked through, heard and seen."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
import soundfile
import tiny_corpora
import tiny_recipes
from conftest import run_here
from PIL import Image

from fairseq_mtssl.cli.main import main
from fairseq_mtssl.report.page import asset, write_page
from fairseq_mtssl.report.run_sections import gallery_sections, scores_section

pytest.importorskip("matplotlib")
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here to open the page in; Debian's package is chromium"
)
CAPTIONS, TEST_PAIRS = 10, 24
PLAY = {"x": 20, "y": 19}  # where a player has its button, in pixels
SCORES = {"r1": 10.0, "r5": 50.0, "r10": 100.0, "median_rank": 5.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that fairseq-hydra-train left, of a tiny model; its data folder is beside it."""
    base = tmp_path_factory.mktemp("page")
    for split, count in (("train", 10), ("valid", 6), ("test", TEST_PAIRS)):
        tiny_corpora.make_pairs(base / "data", split, count)
    settings = {**tiny_recipes.TINY, "checkpoint.save_dir": str(base / "run"), "task.data": "data"}
    overrides = tiny_recipes.command_words(settings)
    words = ["fairseq-hydra-train", "--config-name", "joint_sequential_small", *overrides]
    done = run_here(words, cwd=base)
    assert done.returncode == 0, done.stderr[-3000:]
    return base / "run"


@pytest.fixture(scope="module")
def trained_page(run: Path) -> Path:
    """Its page."""
    out = run / "page.html"
    assert main(["report", str(run), "--html", str(out), "--captions", str(CAPTIONS), "--device", "cpu"]) == 0
    return out


def test_the_page_of_a_training_has_all_of_it(run: Path, trained_page: Path) -> None:
    page = pages.PageParts(trained_page.read_text(encoding="utf-8"))
    text = " ".join(page.texts)
    assert not page.errors and len(page.ids) == len(set(page.ids))
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address[0] == "#"} <= set(page.ids)
    assert "fairseq-hydra-train --config-name joint_sequential_small" in text and "task.data=" in text
    assert (
        "after 8 updates" in text and "encoder_embed_dim: 16" in text and "Phases: W2V2 from update 0" in text
    )
    assert f"Split test: {TEST_PAIRS} images, {TEST_PAIRS} spoken captions" in text


def test_its_captions_sound_as_the_corpus_and_its_images_can_be_seen(run: Path, trained_page: Path) -> None:
    page = pages.PageParts(trained_page.read_text(encoding="utf-8"))
    heard, _ = soundfile.read(io.BytesIO(pages.decoded(page.all("audio")[0]["src"])), dtype="int16")
    told, _ = soundfile.read(run.parent / "data" / "audio" / "test_0.wav", dtype="int16")
    assert np.array_equal(heard, told[: len(heard)]) and len(heard) == min(len(told), 8000)  # 0.5 s are heard
    assert len(page.all("audio")) == CAPTIONS + 8 * 5
    assert len(page.all("img")) == CAPTIONS * 6 + 8
    for image in page.all("img"):
        Image.open(io.BytesIO(pages.decoded(image["src"]))).verify()


@pytest.fixture(scope="module")
def made_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with two hits among five captions, and one among two images."""
    captions = pages.queries([1, 7, 3, 9, 8], text='a "<b>&amp;</b>" tone')
    scores = {"split": "test", "images": 10, "captions": 10, "relevance": "image"}
    scores |= {"speech_to_image": SCORES, "image_to_speech": SCORES}
    chance = {"speech_to_image": SCORES, "image_to_speech": SCORES}
    sections = [
        scores_section({**scores, "chance": chance}),
        *gallery_sections(captions, pages.image_queries([2, 5])),
    ]
    out = tmp_path_factory.mktemp("made") / "page with spaces.html"
    return write_page("Made", sections, out, script=asset("gallery.js"))


class Tab:
    """A tab of Chromium. Its clicks fail where another element is in front, as those of a person would.

    errors: what scripts raised or the console was told; requests: every address that was asked for.
    """

    def __init__(self, page: Any) -> None:
        self.page, self.js = page, page.evaluate
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: said.type in ("error", "warning") and self.errors.append(said.text))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: Path, width: int = 1200, dark: bool = False) -> None:
        """Open a file of this disk in a window of this width and wait until all of it is there."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(color_scheme="dark" if dark else "light")
        self.page.goto(path.resolve().as_uri())

    def click(self, selector: str, **where: Any) -> None:
        self.page.locator(selector).first.click(**where)


@pytest.fixture(scope="module")
def tab() -> Iterator[Tab]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser: extra dev")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield Tab(browser.new_page())
        browser.close()


def visible(tab: Tab, gallery: str) -> list[str]:
    """Outcomes of the cards that take room on the screen."""
    cards = f'[...document.querySelectorAll("#{gallery} .card")].filter((card) => card.offsetHeight > 0)'
    return list(tab.js(f"{cards}.map((card) => card.dataset.outcome)"))


def choice(gallery: str, value: str) -> str:
    """The label of a choice; the radio button itself is laid over it."""
    return f'#{gallery} label:has(input[value="{value}"])'


@needs_chromium
@pytest.mark.parametrize("which", ["made_page", "trained_page"])
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_hits_or_misses_are_chosen_by_a_click(
    which: str, width: int, dark: bool, tab: Tab, request: pytest.FixtureRequest
) -> None:
    tab.open(request.getfixturevalue(which), width, dark=dark)
    for gallery in ("captions-find-images", "images-find-captions"):
        everything = visible(tab, gallery)
        for value in ("hit", "miss", "all"):
            tab.click(choice(gallery, value))
            wanted = [outcome for outcome in everything if value in (outcome, "all")]
            assert visible(tab, gallery) == wanted
            label = tab.js(f"document.querySelector({choice(gallery, value)!r}).textContent")
            told = tab.js(f'document.querySelector("#{gallery} output").textContent')
            assert label.endswith(f" {len(wanted)}") and told == f"{len(wanted)} of {len(everything)} shown"
    if which == "made_page":
        assert [visible(tab, gallery).count("hit") for gallery in ("captions-find-images",)] == [2]
    assert tab.errors == []


@needs_chromium
@pytest.mark.parametrize("where", ["h3 button", ".pictures img"])
def test_a_click_on_a_caption_or_its_pictures_opens_and_closes_it(
    where: str, tab: Tab, trained_page: Path
) -> None:
    tab.open(trained_page)
    card, facts = "#captions-2", 'document.querySelector("#captions-2-more").offsetHeight'
    width = f'document.querySelector("{card} img").getBoundingClientRect().width'
    closed = tab.js(width)
    assert tab.js(facts) == 0
    tab.click(f"{card} {where}")
    assert tab.js(facts) > 0 and tab.js(width) > 1.5 * closed
    assert tab.js(f'document.querySelector("{card} button").getAttribute("aria-expanded")') == "true"
    assert f"of {TEST_PAIRS}, score" in tab.js('document.querySelector("#captions-2-more").innerText')
    assert tab.js('document.querySelector("#captions-1-more").offsetHeight') == 0
    tab.click(f"{card} {where}")
    assert tab.js(facts) == 0 and tab.js(width) == closed


@needs_chromium
def test_all_open_and_close_at_once_but_only_those_that_are_shown(tab: Tab, made_page: Path) -> None:
    tab.open(made_page)
    opened = '[...document.querySelectorAll("#captions-find-images .card.open")].length'
    tab.click(choice("captions-find-images", "hit"))
    tab.click("#captions-find-images button.all")
    assert tab.js(opened) == 2
    tab.click(choice("captions-find-images", "all"))
    tab.click("#captions-find-images button.all")
    assert tab.js(opened) == 5
    tab.click("#captions-find-images button.all")
    assert tab.js(opened) == 0


@needs_chromium
def test_the_keyboard_reaches_and_opens_a_caption(tab: Tab, made_page: Path) -> None:
    tab.open(made_page)
    for _ in range(40):
        tab.page.keyboard.press("Tab")
        if tab.js('document.activeElement.closest("#captions-1 h3") !== null'):
            break
    assert tab.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.page.keyboard.press("Enter")
    assert tab.js('document.querySelector("#captions-1").classList.contains("open")')


@needs_chromium
@pytest.mark.parametrize("which", ["made_page", "trained_page"])
def test_a_caption_is_heard_by_a_click_on_its_player(
    which: str, tab: Tab, request: pytest.FixtureRequest
) -> None:
    tab.open(request.getfixturevalue(which))
    tab.page.wait_for_function('[...document.querySelectorAll("audio")].every((audio) => audio.duration > 0)')
    assert tab.js('[...document.querySelectorAll("audio")].every((audio) => audio.error === null)')
    tab.click("#captions-1 audio", position=PLAY)
    tab.page.wait_for_function('document.querySelector("#captions-1 audio").currentTime > 0')
    tab.click("#images-1 h3 button")
    tab.click("#images-1 .clips audio", position=PLAY)
    tab.page.wait_for_function('document.querySelector("#images-1 .clips audio").currentTime > 0')
    assert tab.js('document.querySelector("#captions-1 audio").paused')
    assert tab.errors == []


@needs_chromium
@pytest.mark.parametrize("which", ["made_page", "trained_page"])
def test_every_picture_is_drawn_and_nothing_is_asked_of_the_network(
    which: str, tab: Tab, request: pytest.FixtureRequest
) -> None:
    tab.requests.clear()
    path = request.getfixturevalue(which)
    tab.open(path)
    assert tab.js("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert {url for url in tab.requests if not url.startswith("data:")} == {path.as_uri()}
    assert tab.errors == []


@needs_chromium
@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_runs_out_of_the_window_or_over_its_neighbour(
    width: int, tab: Tab, trained_page: Path
) -> None:
    tab.open(trained_page, width)
    tab.click("#captions-find-images button.all")
    tab.click("#images-find-captions button.all")
    assert tab.js("document.documentElement.scrollWidth") <= width
    overlaps = tab.js("""
        [...document.querySelectorAll(".card")].flatMap((card) => {
            const boxes = [...card.querySelectorAll("h3, .badge, audio, img, figcaption, .clips span, dl")]
                .map((part) => [part, part.getBoundingClientRect()]).filter(([, box]) => box.width > 0);
            return boxes.flatMap(([a, p], i) => boxes.slice(i + 1).filter(([b, q]) =>
                !a.contains(b) && !b.contains(a) && p.left < q.right - 1 && q.left < p.right - 1
                && p.top < q.bottom - 1 && q.top < p.bottom - 1).map(([b]) => a.outerHTML + b.outerHTML));
        })""")
    assert overlaps == []


@needs_chromium
def test_the_texts_can_be_told_from_the_ground_in_light_and_dark(tab: Tab, made_page: Path) -> None:
    """Contrast of at least 4.5, the AA of WCAG 2.2."""
    for dark in (False, True):
        tab.open(made_page, dark=dark)
        tab.click("#captions-1 h3 button")
        low = tab.js("""
            (() => {
                const light = (text) => {
                    const parts = text.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
                        .map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
                    return .2126 * parts[0] + .7152 * parts[1] + .0722 * parts[2];
                };
                const ground = (part) => {
                    for (; part; part = part.parentElement) {
                        const colour = getComputedStyle(part).backgroundColor;
                        if (!/, 0\\)$/.test(colour)) return colour;
                    }
                };
                const texts = "h1, h2, h3 button, p, td, th, dt, dd, figcaption, label, legend, output, "
                    + ".badge, .mark, .score, button.all";
                return [...document.querySelectorAll(texts)].filter((part) => part.offsetHeight > 0)
                    .map((part) => {
                        const [a, b] = [light(getComputedStyle(part).color), light(ground(part))];
                        return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), part.outerHTML];
                    }).filter(([contrast]) => contrast < 4.5);
            })()""")
        assert low == []
