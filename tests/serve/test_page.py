"""The page, in a real browser where there is one."""

import os
import shutil
from pathlib import Path

import pytest

from fastlane_rag import FastLaneIndex
from fastlane_rag.serve.app import create_app
from fastlane_rag.serve.keys import read_keys
from fastlane_rag.serve.settings import ServeSettings

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Where screenshots go, for people to look at.
SHOTS = os.environ.get("FASTLANE_SCREENSHOTS")
HOSTILE = (
    "<img src=x onerror=\"document.title='owned'\"> \N{GRINNING FACE} <script>document.title='owned'</script> cats"
)


def test_the_files_of_the_page_are_sent_with_a_policy(client):
    for path, media_type, part in (
        ("/", "text/html", '<form id="ask"'),
        ("/page.css", "text/css", "prefers-color-scheme"),
        ("/page.js", "text/javascript", "textContent"),
    ):
        found = client.get(path)
        assert (found.status_code, found.headers["content-type"]) == (200, f"{media_type}; charset=utf-8")
        assert part in found.text
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert "innerHTML" not in found.text
        assert "://" not in found.text  # nothing is loaded from elsewhere


def test_every_stage_has_a_place_on_the_page(client):
    from fastlane_rag.search.result import STAGES

    assert f"const STAGES = {['encode', *STAGES]}".replace("'", '"') in client.get("/page.js").text


@pytest.fixture
def page():
    """A page of a browser; console errors fail the test."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if BROWSER is None:
        pytest.skip("needs a browser: chromium")
    with playwright.sync_playwright() as run:
        browser = run.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 900})
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Content Security" in message.text else None)
        yield page
        browser.close()
    assert errors == []


def shoot(page, name):
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


@pytest.fixture
def served(running, model, passages):
    """Forty real passages and a hostile one, on a server."""
    with FastLaneIndex.create(model=model) as index:
        some = [one for one in passages if "decorator" in one["text"]][:40]
        metadatas = [{"title": one["title"], "n": n} for n, one in enumerate(some)]
        index.add([one["text"] for one in some], [one["id"] for one in some], metadatas)
        index.add([HOSTILE], ["<b>evil</b>"], [{"title": HOSTILE, "<i>key</i>": HOSTILE, "n": 100}])
        yield running(create_app(ServeSettings(), {"peps": index})).url, index


@pytest.mark.slow
def test_a_question_is_answered_with_evidence(served, page):
    url, _ = served
    page.goto(url)
    page.wait_for_selector("#about:has-text('41 documents')")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type("What does a decorator do to a function?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#hits li:nth-child(5) mark")
    assert page.locator("#hits article").count() == 5
    assert page.locator(".token.routed").count() > 0
    assert "encode" in page.inner_text("#legend")
    assert "comparisons" in page.inner_text("#cost")
    shoot(page, "answer-light")
    page.emulate_media(color_scheme="dark")
    shoot(page, "answer-dark")
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shoot(page, "answer-phone")
    page.locator("#hits details summary").first.click()
    assert page.locator("#hits details[open] tbody tr").count() > 3


@pytest.mark.slow
def test_filters_and_options_are_told_and_mistakes_shown(served, page):
    url, _ = served
    page.goto(url)
    page.click("#ask summary")
    page.fill("#filter", '{"n": {"$lt": 3}}')
    page.fill("#route_k", "2")
    page.fill("#query", "decorator")
    page.keyboard.press("Enter")
    page.wait_for_selector("#hits article")
    assert page.locator("#hits article").count() == 3
    assert page.locator(".token.routed").count() <= 2
    page.fill("#filter", "{n: 3")
    page.click("#ask button")
    page.wait_for_selector("#error:has-text('The filter is not JSON')")
    page.fill("#filter", '{"n": {"$near": 3}}')
    page.click("#ask button")
    page.wait_for_selector("#error:has-text('$near')")
    shoot(page, "error")
    page.fill("#filter", '{"n": -1}')
    page.click("#ask button")
    page.wait_for_selector("#hits:has-text('No passage matches.')")
    assert page.is_hidden("#error")
    page.fill("#filter", '{"lang": "en"}')
    page.click("#ask button")
    page.wait_for_selector("#hits:has-text(\"No passage matches: no document has the metadata key 'lang'\")")


@pytest.mark.slow
def test_what_documents_hold_stays_text(served, page):
    url, index = served
    page.goto(url)
    page.fill("#query", HOSTILE)
    page.click("#ask button")
    page.wait_for_selector("#hits li:nth-child(5) mark")
    first = page.locator("#hits article").first
    assert HOSTILE in first.inner_text()
    assert "<b>evil</b>" in first.inner_text()
    assert page.locator("#hits img, #hits script, #hits b b, #hits i").count() == 0
    assert page.title() == "FastLane search"
    spans = page.evaluate("[...document.querySelectorAll('#hits li:first-child mark')].map(one => one.textContent)")
    expected = index.explain(HOSTILE, "<b>evil</b>").spans
    assert sorted(spans) == sorted(span.text for span in expected)  # behind a letter of two code units, too


@pytest.mark.slow
def test_a_document_is_added(served, page):
    url, index = served
    page.goto(url)
    page.wait_for_selector("#about:has-text('41 documents')")
    page.click("#adding summary")
    page.fill("#new-id", "zebra")
    page.fill("#new-text", "Zebras have stripes that no two of them share.")
    page.fill("#new-metadata", '{"title": "Zebras"}')
    page.click("#add button")
    page.wait_for_selector("#added:has-text('Stored as zebra.')")
    page.wait_for_selector("#about:has-text('42 documents')")
    assert index.get(["zebra"])[0].metadata == {"title": "Zebras"}
    page.fill("#query", "Which animals have stripes?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#hits h3:has-text('1. Zebras')")
    shoot(page, "added")


@pytest.mark.slow
def test_a_key_is_asked_for_and_used(running, index, page, tmp_path):
    file = tmp_path / "keys"
    file.write_text("app read reader-key-0123456789\n")
    page.goto(running(create_app(ServeSettings(keys=read_keys(file)), {"animals": index})).url)
    page.wait_for_selector("#error:has-text('an API key is needed')")
    page.fill("#key", "reader-key-0123456789")
    page.keyboard.press("Enter")
    page.wait_for_selector("#about:has-text('4 documents, words')")
    page.fill("#query", "cats purr")
    page.keyboard.press("Enter")
    page.wait_for_selector("#hits h3:has-text('1. cat')")  # this model explains nothing: passages stand without
    assert page.locator("#hits mark").count() == 0
