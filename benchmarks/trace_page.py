"""How long a browser takes until the page of a trace is drawn.

    python benchmarks/trace_page.py --steps 100 1000 5000

Needs selenium, chromium and chromedriver. Prints a Markdown table: median of five openings.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
from pathlib import Path

from langchain_core.documents import Document
from selenium import webdriver

from agentprm.budget import empty_usage
from agentprm.trace import Trace, to_html, trace_of

# After the first frame that shows the page.
DRAWN = "const done = arguments[0]; requestAnimationFrame(() => setTimeout(() => done(performance.now()), 0))"


def random_search(size: int, seed: int = 0) -> Trace:
    """A search tree whose new steps hang on one of the twelve latest."""
    draw = random.Random(seed)
    documents = [
        Document(id=str(i), page_content=f"Brunel built bridge {i}. " * 8, metadata={"title": f"Bridge {i}"})
        for i in range(50)
    ]
    steps, ids = [], [None]
    for i in range(size):
        parent = draw.choice(ids[-12:])
        depth = parent.count(".") + 2 if parent else 1
        step_id = f"{parent}.{i}" if parent else str(i)
        ids.append(step_id)
        steps.append(
            {
                "id": step_id,
                "parent_id": parent,
                "depth": depth,
                "query": f"Who built bridge {i}?",
                "retrieve": True,
                "doc_ids": [str(i % 50)],
                "cited_ids": [str(i % 50)],
                "thought": "Brunel",
                "final_answer": None,
                "score": draw.random(),
                "value": draw.random(),
                "status": "rejected",
                "usage": {**empty_usage(), "seconds": draw.random()},
            }
        )
    return trace_of({"question": "Who built it?", "prm_steps": steps, "prm_documents": documents})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 1000, 5000])
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    print("| steps | page, KB | drawn after, ms |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in parser.parse_args().steps:
            path = Path(folder, "trace.html")
            path.write_text(to_html(random_search(size)), encoding="utf-8")
            times = []
            for _ in range(5):
                browser.get(path.as_uri())
                times.append(browser.execute_async_script(DRAWN))
            print(f"| {size:,} | {path.stat().st_size / 1000:,.0f} | {statistics.median(times):,.0f} |")
    browser.quit()


if __name__ == "__main__":
    main()
