"""Pages of the documentation that are made while it is built: the API, results, changes."""

from __future__ import annotations

import pkgutil
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import agentprm

_ROOT = Path(agentprm.__file__).parents[1]
_REPOSITORY = re.compile(r"\]\((?P<path>(?:\.\./)+[^)#\s]*)(?P<anchor>#[^)\s]*)?\)")
_ELSEWHERE = {"results.md": "benchmarks/RESULTS.md", "changes.md": "CHANGELOG.md"}
# Modules outside of a package whose names users meet.
_MODULES = ("budget", "citations", "errors", "events", "packaged", "prompts", "state")
_PLACES = {path: page for page, path in _ELSEWHERE.items()}


def on_files(files: Files, config: Any) -> Files:
    """Adds them."""
    for page, path in _ELSEWHERE.items():
        files.append(File.generated(config, page, content=(_ROOT / path).read_text(encoding="utf-8")))
    inside = [m.name for m in pkgutil.iter_modules(agentprm.__path__) if m.ispkg or m.name in _MODULES]
    packages = ["agentprm", *(f"agentprm.{name}" for name in sorted(inside) if name != "demo")]
    for name in packages:
        text = f"# {name}\n\n::: {name}\n    options:\n      show_root_heading: false\n"
        files.append(File.generated(config, f"api/{name}.md", content=text))
    examples = sorted((_ROOT / "examples").glob("*.py"))
    parts = [f"## {path.name}\n\n```python\n{path.read_text(encoding='utf-8')}```\n" for path in examples]
    files.append(File.generated(config, "examples.md", content="# Examples\n\n" + "\n".join(parts)))
    listed = "\n".join(f"- [{name}]({name}.md)" for name in packages)
    files.append(File.generated(config, "api/index.md", content=f"# Python\n\n{listed}\n"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files outside of `docs` lead to the pages made of them; one that has none ends the build."""
    here = posixpath.dirname(_ELSEWHERE.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def moved(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(here, match["path"]))
        if path.startswith("examples"):
            return f"](examples.md#{posixpath.basename(path).replace('.', '').lower()})"
        return f"]({_PLACES[path]}{match['anchor'] or ''})"

    return _REPOSITORY.sub(moved, markdown)
