"""What is built and installed: agentprm alone, with real files, light to import."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "gguf",
    "rich",
    "lxml",
    "markdown_it",
    "pypdf",
    "docx",
    "vllm",
    "ray",
)
LINKED = ("graphs", "retrievers")


def run(*command: str | Path, cwd: Path) -> str:
    """Runs a command; its output if it succeeds, a failed test with its output if not."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of what is built, links kept, so that no build leaves anything in the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("agentprm", *LINKED):
        shutil.copytree(
            ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*_cache")
        )
    for name in LINKED:
        assert (copy / "agentprm" / name).is_symlink()
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel straight from the tree, as `pip install .` builds it."""
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, cwd=source)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution and, beside it, the wheel that is built from it."""
    out = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=source)
    return next(out.glob("*.tar.gz"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty site-packages folder into which the wheel alone is installed."""
    target = tmp_path_factory.mktemp("site")
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--target", target)
    run(sys.executable, "-m", "pip", "install", *options, wheel, cwd=target)
    return target


def test_nothing_but_agentprm_is_installed(site: Path) -> None:
    names = {path.name for path in site.iterdir()}
    assert {name for name in names if not name.endswith(".dist-info")} <= {"agentprm", "bin"}
    assert [name for name in names if name.endswith(".dist-info")] == ["agentprm-0.1.0.dist-info"]
    assert {path.name for path in (site / "bin").iterdir()} == {"agentprm"}


def test_linked_packages_hold_every_file_of_the_checkout(site: Path) -> None:
    for name in LINKED:
        installed = site / "agentprm" / name
        assert installed.is_dir()
        assert not installed.is_symlink()
        wanted = {path.relative_to(ROOT / name) for path in (ROOT / name).rglob("*.py")}
        assert wanted
        assert {path.relative_to(installed) for path in installed.rglob("*.py")} == wanted
        assert not [path for path in installed.rglob("*") if path.is_symlink()]


def test_data_types_marker_and_licence_are_inside(site: Path) -> None:
    assert (site / "agentprm" / "py.typed").is_file()
    data = [path for path in (ROOT / "agentprm" / "demo").rglob("*") if path.suffix in {".jsonl", ".tsv"}]
    assert data
    for path in data:
        assert (site / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    info = site / "agentprm-0.1.0.dist-info"
    assert "Apache License" in (info / "licenses" / "LICENSE").read_text(encoding="utf-8")
    assert "agentprm = agentprm.cli:main" in (info / "entry_points.txt").read_text(encoding="utf-8")


def test_the_sdist_holds_files_and_builds_the_same_wheel(wheel: Path, sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    assert not [member.name for member in members if member.issym() or member.islnk()]
    names = {member.name.split("/", 1)[-1] for member in members if member.isfile()}
    assert {f"agentprm/{name}/__init__.py" for name in LINKED} <= names
    assert not [name for name in names if name.startswith(LINKED)]
    rebuilt = next(sdist.parent.glob("*.whl"))
    assert zipfile.ZipFile(rebuilt).namelist() == zipfile.ZipFile(wheel).namelist()


IMPORT_LIGHT = """
import importlib, os, sys, traceback
site, heavy = sys.argv[1], set(sys.argv[2].split(","))

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in heavy:
            raise ImportError(f"{name} must not be imported by the base install")

def check(name):
    module = importlib.import_module(name)
    assert module.__file__.startswith(site), f"{name} comes from {module.__file__}"
    for exported in module.__all__:
        try:
            getattr(module, exported)
        except ImportError as error:  # loaded lazily: the error must name the extra
            assert "agentprm[" in str(error), f"{name}.{exported}: {error}"
    assert not heavy & set(sys.modules)
    assert not {"graphs", "retrievers"} & set(sys.modules)

sys.meta_path.insert(0, Blocker())
sys.path.insert(0, site)
# Each module is the first of agentprm that its process imports; what they all need is loaded once.
import faiss, langgraph.graph, langchain_core.vectorstores
assert not [name for name in sys.modules if name.startswith("agentprm")]
for name in sys.argv[3:]:
    child = os.fork()
    if not child:
        try:
            check(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


def test_the_installed_base_imports_without_extras(site: Path, tmp_path: Path) -> None:
    names = ("graphs", "lm", "nodes", "retrievers", "rewards", "scale", "testing")
    modules = ["agentprm", *(f"agentprm.{name}" for name in names)]
    # -I: neither the working directory nor PYTHONPATH is searched, so the checkout is out of reach
    run(sys.executable, "-I", "-c", IMPORT_LIGHT, site, ",".join(HEAVY), *modules, cwd=tmp_path)


def test_the_command_runs_from_the_wheel(site: Path, tmp_path: Path) -> None:
    start = "import sys; sys.path.insert(0, sys.argv.pop(1)); from agentprm.cli import main; sys.exit(main())"
    assert "ask" in run(sys.executable, "-I", "-c", start, site, "--help", cwd=tmp_path)
