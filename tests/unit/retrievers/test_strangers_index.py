"""An index from a stranger, who can make its checksums right: typed errors, in bounded time and memory."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sqlite3
import threading
from contextlib import closing

import numpy as np
import pytest

from agentprm.cli import main
from agentprm.errors import AgentPRMError
from agentprm.retrievers import FaissStore, fsck, roll_back


def seal(folder, **fields):
    """Makes the checksums of the first generation right, with other fields of the manifest if given."""
    generation = folder / "gen-000001"
    manifest = json.loads((generation / "manifest.json").read_bytes())
    manifest["files"] = {
        name: {
            "size": (generation / name).stat().st_size,
            "sha256": hashlib.sha256((generation / name).read_bytes()).hexdigest(),
        }
        for name in manifest["files"]
    }
    raw = json.dumps({**manifest, **fields}).encode()
    (generation / "manifest.json").write_bytes(raw)
    (folder / "CURRENT").write_text(f"gen-000001 {hashlib.sha256(raw).hexdigest()}\n")


@pytest.fixture
def index(tmp_path, embedding):
    store = FaissStore(embedding)
    store.add_texts(
        [f"text {i}" for i in range(20)], [{"n": i} for i in range(20)], ids=[f"d{i}" for i in range(20)]
    )
    _ = store.mentions, store.lexical
    store.save(tmp_path / "index")
    return tmp_path / "index"


def use(folder, embedding):
    """Everything that reads an index."""
    store = FaissStore.load(folder, embedding)
    store.search_batch(["text 3"], k=20)
    store.search_batch(["text 3"], k=20, filter={"n": 1})
    list(store)
    len(store.mentions)
    store.lexical.search("text 3", 5)


def refused(folder, embedding, seconds=30):
    """The index is refused with a typed error, by `fsck` as well, and soon."""
    outcome = []

    def work():
        for call in (lambda: use(folder, embedding), lambda: outcome.append(fsck(folder).problems)):
            try:
                call()
                outcome.append(None)
            except BaseException as error:  # whatever it is, it is looked at below
                outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    first, problems, nothing = outcome
    assert isinstance(first, AgentPRMError), repr(first)
    assert nothing is None
    assert problems
    return str(first)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("kind", ["pipe", "zero", "huge", "folder", "link"])
@pytest.mark.parametrize(
    "name", ["CURRENT", "gen-000001/manifest.json", "gen-000001/documents.sqlite", "gen-000001/vectors.npy"]
)
def test_files_that_are_none(index, embedding, kind, name):
    path = index / name
    path.rename(index.parent / "aside")
    if kind == "link":  # even to the right contents
        path.symlink_to(index.parent / "aside")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    else:
        path.mkdir()
    refused(index, embedding)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
def test_a_generation_that_is_a_link(index, embedding):
    (index / "gen-000001").rename(index.parent / "aside")
    (index / "gen-000001").symlink_to(index.parent / "aside")
    assert "is a link" in refused(index, embedding)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_note_that_is_a_pipe(index, capsys):
    os.mkfifo(index / "agentprm.json")
    assert main(["ask", "Who?", "--index", str(index)]) == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("files", [{}, "some"])
def test_checksums_cannot_be_left_out(index, embedding, files):
    if files == "some":
        manifest = json.loads((index / "gen-000001" / "manifest.json").read_bytes())
        files = {name: entry for name, entry in manifest["files"].items() if name != "documents.sqlite"}
    seal(index, files=files)
    assert "not in the manifest" in refused(index, embedding)


ENDLESS = """
CREATE VIEW documents AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r)
SELECT n AS key, 'd' AS id, 't' AS text, '{}' AS metadata FROM r
"""


@pytest.mark.parametrize(
    "script",
    [
        f"DROP TABLE documents; {ENDLESS}",
        "DROP TABLE documents; CREATE TABLE documents (key INTEGER PRIMARY KEY, id, text, metadata)",
        "CREATE TRIGGER t AFTER DELETE ON documents BEGIN DELETE FROM documents; END",
        "UPDATE documents SET text = NULL WHERE key = 3",
        "UPDATE documents SET metadata = NULL WHERE key = 3",
        "UPDATE documents SET metadata = '[1]' WHERE key = 3",
        "UPDATE documents SET metadata = '{' WHERE key = 3",
        f"UPDATE documents SET metadata = '{'[' * 100_000}' WHERE key = 3",
        "UPDATE documents SET text = x'ff00' WHERE key = 3",
        "UPDATE documents SET text = CAST(x'ff' AS TEXT) WHERE key = 3",
        "DELETE FROM documents WHERE key = 3",
        "DELETE FROM documents WHERE key = 3; PRAGMA user_version = 0",
    ],
)
def test_documents_that_are_none(index, embedding, script):
    with closing(sqlite3.connect(index / "gen-000001" / "documents.sqlite")) as connection:
        connection.executescript(script)
    seal(index)
    refused(index, embedding)


def array(header, data=b""):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"fortran_order": False, "descr": "<i8", **header})
    return file.getvalue() + data


def saved(save, value):
    file = io.BytesIO()
    save(file, value)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        array({"shape": (10**12,)}),
        array({"shape": (10**30,)}),
        array({"shape": (-1,)}),
        array({"shape": ()}, b"\0" * 8),
        array({"shape": (2, 2)}, b"\0" * 32),
        array({"shape": (1,)}, b"\0" * 64),
        array({"shape": (1,), "descr": "<f8"}, b"\0" * 8),
        array({"shape": (1,), "descr": "|O"}, b"\x80\x04N."),
        array({"shape": (1,)}, (10**6).to_bytes(8, "little")),
        array({"shape": (1,)}, (-1).to_bytes(8, "little", signed=True)),
        saved(np.savez, np.arange(3)),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535,
        b"\x93NUMPY\x02\x00",
        b"\x93NUMPY\x01\x00\x10\x00{'descr': 'x'}  ",
        b"",
    ],
)
@pytest.mark.parametrize("name", ["deleted.npy", "ids.npy", "vectors.npy"])
def test_arrays_that_are_none(index, embedding, name, data):
    (index / "gen-000001" / name).write_bytes(data)
    seal(index)
    refused(index, embedding)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"titles": 3}', "[" * 100_000, '{"titles": [[]]}'])
def test_titles_that_are_none(index, embedding, text):
    (index / "gen-000001" / "mentions.json").write_text(text)
    seal(index)
    refused(index, embedding)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs links")
@pytest.mark.parametrize("name", [".lock", "tmp-CURRENT", "CURRENT", "gen-000002", "tmp-x"])
def test_nothing_is_written_through_links(index, embedding, tmp_path, name):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("precious")
    path = index / name
    store = FaissStore.load(index, embedding)
    path.unlink(missing_ok=True)
    path.symlink_to(outside / "file" if "gen" not in name and name != "tmp-x" else outside)
    for work in (
        lambda: FaissStore.from_texts(["x"], embedding).save(index),
        lambda: store.save(index),
        lambda: roll_back(index),
    ):
        with contextlib.suppress(AgentPRMError):
            work()
    assert [p.name for p in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("words-1.json", b"["),
        ("words-1.json", b'{"ids": [], "words": []}'),
        ("words-starts.npy", saved(np.save, np.array([0, 5]))),
        ("words-places.npy", saved(np.save, np.full(40, 10**6, np.int32))),
        ("words-places.npy", saved(np.save, np.full(40, -1, np.int32))),
        ("words-counts.npy", saved(np.save, np.zeros(40, np.int32))),
        ("words-lengths.npy", saved(np.save, np.full(20, -1, np.int32))),
        ("words-lengths.npy", array({"shape": (10**12,)})),
    ],
)
def test_words_that_are_none(index, embedding, name, data):
    (index / "gen-000001" / name).write_bytes(data)
    seal(index)
    refused(index, embedding)
