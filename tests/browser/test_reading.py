"""What a reader does: looks something up, goes on and back, folds the contents away, prints."""

import pytest

from tests.browser.opening import opened, pages_of

pytestmark = pytest.mark.slow

HIDDEN_ON_PAPER = "header.site, .way, .outline, footer.site, .anchor-link"


def chapters(site):
    """The tour's pages, in order."""
    return [path for path in pages_of(site) if path.name[:2].isdigit()]


def test_the_first_page_leads_to_every_chapter_and_names_what_one_learns(chromium, little_site):
    with opened(chromium, little_site / "index.html") as here:
        stops = here.page.locator(".tour-picture.wide .stop")
        assert stops.locator(".question").all_text_contents() == [
            "Can it be counted?", "What follows?", "And then?", "Who knows?",
        ]  # fmt: skip
        assert stops.locator(".number").all_text_contents() == ["00", "01", "02", "03"]
        cards = here.page.locator(".card")
        assert cards.count() == 3
        assert "count to two;" in cards.nth(0).inner_text()
        assert cards.nth(0).locator("img").get_attribute("alt") == 'A line that rises, from "0" to 1.'
        assert cards.nth(1).get_by_role("link", name="Exercises: second").count() == 1
        assert "not run yet" in cards.nth(2).inner_text()
        here.page.locator(".tour-picture.wide a").nth(1).click()
        assert here.page.title() == "Second"


def test_a_phone_sees_the_tour_from_top_to_bottom(chromium, site):
    with opened(chromium, site / "index.html", width=390) as here:
        assert not here.page.locator(".tour-picture.wide").is_visible()
        boxes = [stop.bounding_box() for stop in here.page.locator(".tour-picture.narrow .stop").all()]
    assert boxes == sorted(boxes, key=lambda box: box["y"])
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)


def test_a_word_is_found_and_its_link_leads_there(chromium, little_site):
    with opened(chromium, little_site / "words.html") as here:
        here.page.keyboard.press("/")
        here.page.keyboard.type("Quokk island")
        link = here.page.locator(".found a")
        link.wait_for()
        assert link.all_inner_texts() == ["Where the quokka lives"]
        assert here.page.get_by_role("status").inner_text() == "1 found"
        link.click()
        assert here.page.url.endswith("01_second.html#Where-the-quokka-lives")
        here.page.get_by_role("searchbox").fill("kakapo")
        here.page.get_by_text("Nothing found").wait_for()
        here.page.keyboard.press("Escape")
        assert not here.page.locator(".found").is_visible() or not here.page.locator(".found").inner_text()
        assert not here.faults


def test_the_last_heading_of_every_chapter_is_found(chromium, site):
    faults = []
    for path in chapters(site):
        with opened(chromium, path) as here:
            heading = here.page.locator("main h1, main h2").last
            title, anchor = heading.inner_text().removesuffix("#").strip(), heading.get_attribute("id")
            here.page.get_by_role("searchbox").fill(title)
            here.page.locator(".found li").first.wait_for()
            found = [link.get_attribute("href") for link in here.page.locator(".found a").all()]
        if not {path.name, f"{path.name}#{anchor}"} & set(found):
            faults.append(f"{title!r} of {path.name} is not among {found}")
    assert not faults


def test_next_leads_through_the_tour_and_previous_back(chromium, site):
    names = [path.name for path in chapters(site)]
    with opened(chromium, site / names[0]) as here:
        for relation, way in (("next", names[1:]), ("prev", names[-2::-1])):
            for name in way:
                here.page.locator(f"a[rel={relation}]").first.click()
                here.page.wait_for_url(f"**/{name}")
        assert not here.page.locator("a[rel=prev]").count()
        assert not here.faults


def test_the_contents_of_a_page_stand_open_on_a_desk_and_folded_on_a_phone(chromium, little_site):
    for width, shown in ((1280, True), (390, False)):
        with opened(chromium, little_site / "00_first.html", width=width) as here:
            links = here.page.locator(".outline a")
            assert links.all_text_contents() == ["A long formula", "Notes", "Notes"]
            assert links.last.is_visible() == shown
            if shown:
                links.last.click()
                assert here.page.url.endswith("#Notes-1")


def test_wide_things_scroll_by_themselves_and_the_keyboard_reaches_them(chromium, little_site):
    with opened(chromium, little_site / "00_first.html", width=390) as here:
        wide = here.page.locator(".output_html:has(table)")
        assert wide.evaluate("e => e.scrollWidth > e.clientWidth")
        wide.focus()
        here.page.keyboard.press("ArrowRight")
        here.page.wait_for_function("document.activeElement.scrollLeft > 0")


def test_paper_is_white_without_navigation_and_with_everything_unfolded(chromium, little_site):
    with opened(chromium, little_site / "00_first.html", scheme="dark") as here:
        paper = "getComputedStyle(document.body).backgroundColor"
        assert here.page.evaluate(paper) != "rgb(255, 255, 255)"
        here.page.emulate_media(media="print")
        assert here.page.evaluate(paper) == "rgb(255, 255, 255)"
        assert here.page.locator(HIDDEN_ON_PAPER).count() > 4
        assert not [part for part in here.page.locator(HIDDEN_ON_PAPER).all() if part.is_visible()]
        assert here.page.evaluate("getComputedStyle(document.querySelector('figure')).breakInside") == "avoid"
        assert not here.page.get_by_text("Folded away").is_visible()
        here.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert here.page.get_by_text("Folded away").is_visible()
        here.page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert not here.page.get_by_text("Folded away").is_visible()


def test_a_file_of_the_project_without_a_page_is_named_and_not_linked(chromium, little_site):
    with opened(chromium, little_site / "00_first.html") as here:
        assert here.page.get_by_text("the project.").is_visible()
        assert not here.page.get_by_role("link", name="the project").count()
        here.page.get_by_role("link", name="a word").click()
        assert here.page.url.endswith("words.html#a-long-word")


def test_a_widget_leaves_no_trace_and_its_neighbours_keep_theirs(chromium, little_site):
    with opened(chromium, little_site / "01_second.html") as here:
        assert "IntSlider(" in here.page.locator("main").inner_text()
        outputs = [text for text in here.page.locator(".output_area").all_inner_texts() if text.strip()]
        assert len(outputs) == 2
        assert outputs[-1].strip() == "2"
