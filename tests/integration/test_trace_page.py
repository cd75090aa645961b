"""The page of a trace in a real browser: what it shows, how it is used, and that it loads nothing."""

import contextlib
import shutil

import pytest
from langchain_core.documents import Document

from agentprm.budget import empty_usage
from agentprm.trace import to_html, trace_of

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.enable_socket,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver"),
]

HOSTILE = (
    "<script>document.title='owned'</script></script>"
    "<img src=http://127.0.0.1:9/x onerror=\"document.title='owned'\">"
)


def search(size, answer="Portsmouth"):
    """A tree in which each step has three children, with its first branch committed."""
    documents = [
        Document(
            id=str(i),
            page_content=f"It opened. Brunel built bridge {i}. 😀 {HOSTILE}",
            metadata={"title": f"Bridge {i}"},
        )
        for i in range(5)
    ]
    steps, ids = [], [None]
    for i in range(size):
        parent = ids[i // 3]
        step_id = f"{parent + '.' if parent else ''}{i % 3 + 1}"
        ids.append(step_id)
        first = set(step_id) <= {"1", "."}
        steps.append(
            {
                "id": step_id,
                "parent_id": parent,
                "depth": step_id.count(".") + 1,
                "query": f"Who built bridge {i}?",
                "retrieve": True,
                "doc_ids": [str(i % 5)],
                "thought": f"Brunel built bridge {i % 5}",
                "final_answer": None,
                "score": i % 10 / 10,
                "value": None,
                "status": "committed" if first else "rejected",
                "usage": {**empty_usage(), "seconds": 0.5},
                "cited_ids": [str(i % 5)],
            }
        )
    return trace_of(
        {"question": f"Where? {HOSTILE}", "answer": answer, "prm_steps": steps, "prm_documents": documents}
    )


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-background-networking",
        "window-size=1400,900",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def shown(browser, tmp_path):
    def open_page(*traces):
        path = tmp_path / "trace.html"
        path.write_text(to_html(*traces), encoding="utf-8")
        with contextlib.suppress(Exception):
            browser.get_log("performance")  # what earlier pages did
        browser.get(path.as_uri())
        return browser

    return open_page


def rows(browser):
    return [
        row
        for row in browser.find_elements(By.CLASS_NAME, "row")
        if row.value_of_css_property("display") != "none"
    ]


def test_text_of_passages_and_models_stays_text_and_nothing_leaves_the_page(shown):
    browser = shown(search(30, answer=HOSTILE))
    assert browser.title.startswith("Where? <script>")
    assert HOSTILE in browser.find_element(By.CLASS_NAME, "detail").text
    assert browser.find_element(By.CSS_SELECTOR, ".answer b").text == HOSTILE
    assert not browser.find_elements(By.TAG_NAME, "img")
    requests = [
        e["message"] for e in browser.get_log("performance") if '"Network.requestWillBeSent"' in e["message"]
    ]
    assert len(requests) == 1  # the page itself
    assert "file://" in requests[0]
    assert browser.get_log("browser") == []


def test_a_thousand_steps_are_all_there(shown):
    browser = shown(search(1000))
    assert len(rows(browser)) == 1000
    marked = browser.find_element(By.TAG_NAME, "mark").text
    assert marked.startswith("Brunel built bridge")


def test_search_filter_and_keys(shown):
    browser = shown(search(39))
    chosen = browser.find_elements(By.CSS_SELECTOR, ".row.chosen .text")
    assert [row.text.split()[0] for row in chosen] == ["1", "1.1", "1.1.1"]
    assert browser.find_element(By.CSS_SELECTOR, ".detail h2").text.startswith("1.1.1 ")  # the path's end
    tree = browser.find_element(By.CLASS_NAME, "tree")
    tree.send_keys(Keys.HOME)
    assert browser.find_element(By.CSS_SELECTOR, ".detail h2").text.startswith("1 ")
    tree.send_keys(Keys.ARROW_DOWN)
    assert browser.find_element(By.CSS_SELECTOR, ".detail h2").text.startswith("1.1 ")
    tree.send_keys("c")  # folds everything but the chosen path
    folded = len(rows(browser))
    assert folded < 39
    tree.send_keys("e")
    assert len(rows(browser)) == 39
    tree.send_keys("/")
    browser.switch_to.active_element.send_keys("bridge 38?")
    hits = [row for row in rows(browser) if "nohit" not in row.get_attribute("class")]
    assert len(hits) == 1
    assert "bridge 38?" in hits[0].text
    assert len(rows(browser)) > 1  # what leads to it stays


def test_search_reads_passages_too(shown):
    trace = search(9)
    trace["documents"][3]["text"] += " The Saltash bridge."
    browser = shown(trace)
    browser.find_element(By.ID, "find").send_keys("saltash")
    hits = [row.text for row in rows(browser) if "nohit" not in row.get_attribute("class")]
    assert [hit.split()[0] for hit in hits] == ["1.1", "2.3"]  # steps 3 and 8 were given passage 3


def test_passages_say_how_they_were_reordered(shown):
    trace = search(3)
    trace["steps"][0] |= {
        "doc_ids": ["1", "0"],
        "reranking": {"method": "pairwise <b>", "before": ["0", "2", "1"], "scores": [0.75, None]},
    }
    text = shown(trace).find_element(By.CLASS_NAME, "detail").text
    assert "REORDERED BY PAIRWISE <B>" in text
    assert "found at place 3, given 0.75" in text
    assert "found at place 1\n" in text


def test_what_is_scrolled_to_stays_while_the_tree_grows(shown):
    browser = shown(search(300))
    place = "return document.querySelector('.tree').scrollTop"
    browser.execute_script("document.querySelector('.tree').scrollTop = 3000")
    before = browser.execute_script(place)
    assert before > 2000
    browser.execute_script("draw([views[0].trace])")
    # Rows are measured when they come into view, so that their place moves by some pixels.
    assert abs(browser.execute_script(place) - before) < 200


def test_two_traces_stand_side_by_side(shown):
    first = {**search(5, answer="Portsmouth"), "settings": {"setup": "td", "budget": {"tokens": 9}}}
    browser = shown(first, search(9, answer="Paris"))
    assert 'setup: td · budget: {"tokens":9}' in browser.find_element(By.CLASS_NAME, "head").text
    boxes = browser.find_elements(By.CLASS_NAME, "trace")
    assert [box.find_element(By.CSS_SELECTOR, ".answer b").text for box in boxes] == ["Portsmouth", "Paris"]
    assert boxes[0].rect["y"] == boxes[1].rect["y"]
    assert boxes[0].rect["x"] < boxes[1].rect["x"]


def test_light_and_dark(shown):
    browser = shown(search(3))
    colours = set()
    for _ in range(2):
        colours.add(browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color"))
        browser.find_element(By.ID, "theme").click()
    assert len(colours) == 2


def test_reading_without_a_search_shows_its_passages(shown):
    documents = [
        Document(id="a", page_content="Brunel was born in Portsmouth.", metadata={"title": "Brunel"})
    ]
    browser = shown(trace_of({"question": "Where?", "answer": "Portsmouth", "documents": documents}))
    assert "Brunel was born in Portsmouth." in browser.find_element(By.CLASS_NAME, "detail").text


def test_a_running_search_is_followed(browser, tmp_path):
    uvicorn = pytest.importorskip("uvicorn")
    import threading
    import time

    from agentprm.trace import save_trace
    from agentprm.trace.app import file_app

    def holds(condition):
        try:
            return condition()
        except StaleElementReferenceException:  # the page was drawn anew meanwhile
            return False

    def wait(condition):
        end = time.monotonic() + 30
        while not holds(condition):
            assert time.monotonic() < end
            time.sleep(0.05)

    file = tmp_path / "run.json"
    server = uvicorn.Server(uvicorn.Config(file_app(file), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        browser.get(f"http://127.0.0.1:{port}/")
        assert rows(browser) == []
        save_trace({**search(6), "answer": ""}, file)
        wait(lambda: len(rows(browser)) == 6)
        assert browser.find_element(By.ID, "state").text == "live"
        tree = browser.find_element(By.CLASS_NAME, "tree")
        assert browser.switch_to.active_element == tree  # keys work without a click
        tree.send_keys(Keys.HOME)
        save_trace({**search(7), "answer": ""}, file)
        wait(lambda: len(rows(browser)) == 7)
        browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)  # and still after a change
        assert browser.find_element(By.CSS_SELECTOR, ".detail h2").text.startswith("1.1 ")
        rows(browser)[2].click()
        selected = browser.find_element(By.CSS_SELECTOR, ".row[aria-selected=true] .text").text
        browser.find_element(By.ID, "find").send_keys("bridge 1")
        found = len(rows(browser))
        save_trace(search(20), file)
        wait(lambda: browser.find_element(By.ID, "state").text == "finished")
        # what was searched for and selected stays, and new steps are found as well
        assert browser.find_element(By.ID, "find").get_attribute("value") == "bridge 1"
        assert len(rows(browser)) > found
        assert browser.find_element(By.CSS_SELECTOR, ".row[aria-selected=true] .text").text == selected
        assert HOSTILE in browser.find_element(By.CLASS_NAME, "detail").text
        assert "owned" not in browser.title.split("<script>")[0]
    finally:
        browser.get("about:blank")
        server.should_exit = True
        thread.join(10)
