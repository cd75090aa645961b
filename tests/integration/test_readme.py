"""What README.md says about extras is so; its Python is run by `test_documentation.py`."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import agentprm

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_names_every_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(re.findall(r"`'\.\[([a-z]+)\]'`", README)) == set(project["optional-dependencies"]) - {"dev"}


def test_readme_says_which_extra_reads_which_file(tmp_path, monkeypatch):
    for module in ("lxml", "lxml.html", "lxml.etree", "markdown_it", "pypdf", "docx"):
        monkeypatch.setitem(sys.modules, module, None)
    for ending in ("txt", "csv", "md", "html", "pdf", "docx"):
        (tmp_path / f"a.{ending}").write_text("text\nBrunel")
    (tmp_path / "a.json").write_text('{"text": "Brunel"}')
    (tmp_path / "a.jsonl").write_text('{"text": "Brunel"}')
    found = agentprm.load_folder(tmp_path)
    needs = {"." + skipped.source.split(".")[1]: skipped.reason for skipped in found.skipped}
    rows = {extra: line for line in README.splitlines() for extra in re.findall(r"^\| `(.*?)` \|", line)}
    for ending in (".txt", ".csv", ".json", ".jsonl"):
        assert f"`{ending}`" in rows["pip install ."]
        assert ending not in needs
    for extra, endings in (("text", (".md", ".html")), ("documents", (".pdf", ".docx"))):
        for ending in endings:
            assert f"`{ending}`" in rows[f"'.[{extra}]'"]
            assert f"agentprm[{extra}]" in needs[ending]
