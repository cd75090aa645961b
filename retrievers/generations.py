"""An index folder on disk: immutable generations, and a pointer that is switched atomically.

::

    folder/
      CURRENT              "gen-000003 <sha256 of its manifest.json>"
      .lock                held by a writer
      gen-000003/
        manifest.json      format version, contents, size and sha256 of every file
        …                  the files
        part-000/          the same once more for each part of a sharded store, whose
                           manifest's sha256 stands in the one above

A writer fills a temporary folder, syncs it, renames it to the next generation and then replaces
`CURRENT`. A reader that has opened a generation is never disturbed. The previous generation stays
until the next save, for readers that are just opening it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from agentprm.errors import IndexCorruptError, InputError
from agentprm.retrievers.locking import FolderLock, WriterConflictError

__all__ = [
    "FORMAT_VERSION",
    "Generation",
    "commit",
    "file_digest",
    "leftovers",
    "open_current",
    "open_part",
    "read_current",
    "seal_part",
]

T = TypeVar("T")

FORMAT_VERSION = 1
_NAME = re.compile(r"gen-(\d{6,12})")
_TEMPORARY = "tmp-"
_MANIFEST_LIMIT = 16 << 20
# Files up to this size are verified whenever they are opened, larger ones on request.
_QUICK_BYTES = 64 << 20
_ATTEMPTS = 5


class Generation(NamedTuple):
    """An opened generation: its folder, its number and its manifest, whose own checksum is right."""

    folder: Path
    number: int
    manifest: dict[str, Any]

    def verify(self, names: list[str] | None = None, *, everything: bool = False) -> None:
        """Checks files against the manifest.

        Args:
            names: Files to check in full; `None` for all of the manifest.
            everything: Read large files, too. Sizes are always checked.

        Raises:
            IndexCorruptError: A file is missing, or its size or checksum is not that of the manifest.
        """
        files = self.manifest["files"]
        for name in files if names is None else names:
            path = self.folder / name
            if name not in files:
                raise IndexCorruptError(f"{path} is not in the manifest; restore a copy or index again.")
            size, digest = files[name]["size"], files[name]["sha256"]
            if not path.is_file():
                raise IndexCorruptError(f"{path} is missing; restore a copy or index again.")
            if path.stat().st_size != size:
                raise IndexCorruptError(
                    f"{path} has {path.stat().st_size} bytes instead of {size}; "
                    "restore a copy or index again."
                )
            if (everything or size <= _QUICK_BYTES) and file_digest(path) != digest:
                raise IndexCorruptError(f"{path} is damaged (wrong checksum); restore a copy or index again.")

    def read(self, name: str) -> bytes:
        """Bytes of a file, verified before they are returned.

        Raises:
            IndexCorruptError: The file is missing or damaged.
        """
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise IndexCorruptError(f"{path} cannot be read ({error.strerror}); index again.") from None
        if hashlib.sha256(data).hexdigest() != self.manifest["files"].get(name, {}).get("sha256"):
            raise IndexCorruptError(f"{path} is damaged (wrong checksum); restore a copy or index again.")
        return data


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_current(folder: Path) -> Generation:
    """The generation that `CURRENT` points to.

    Raises:
        InputError: The folder does not exist.
        IndexCorruptError: It holds no index, a damaged one, or one of another format version.
    """
    if not folder.is_dir():
        raise InputError(f"There is no index folder {folder}: check the path, or build the index first.")
    name, digest = _pointer(folder)
    return Generation(folder / name, _number(name), _manifest(folder / name, digest))


def open_part(whole: Generation, place: int, digest: str) -> Generation:
    """A part of a generation, whose manifest has the given checksum.

    Raises:
        IndexCorruptError: It is missing or damaged.
    """
    folder = whole.folder / _part(place)
    return Generation(folder, whole.number, _manifest(folder, digest))


def seal_part(
    folder: Path, place: int, write: Callable[[Path], None], contents: Callable[[], dict[str, Any]]
) -> str:
    """Writes a part of the generation that is being written to `folder`.

    Args:
        folder: The folder of the generation.
        place: Number of the part.
        write: Writes the part's files into the empty folder that it is given.
        contents: Gives the part's manifest without `format_version` and `files`.

    Returns:
        The checksum of the part's manifest.
    """
    own = folder / _part(place)
    own.mkdir()
    write(own)
    return _seal(own, contents())


def read_current(folder: Path, use: Callable[[Generation], T]) -> T:
    """Opens the current generation and reads from it, again if a writer has meanwhile tidied it up.

    Args:
        folder: The index folder.
        use: Reads what is needed, and holds the files open if it needs more later.

    Raises:
        InputError: The folder does not exist.
        IndexCorruptError: As `open_current`, or as `use` raises it.
    """
    for _ in range(_ATTEMPTS):
        before = _current_number(folder) if folder.is_dir() else None
        try:
            return use(open_current(folder))
        except IndexCorruptError:
            if _current_number(folder) == before:
                raise
    return use(open_current(folder))


def commit(
    folder: Path,
    write: Callable[[Path], dict[str, Any]],
    *,
    expected: int | None,
    lock_timeout_s: float,
) -> int:
    """Writes a generation and makes it the current one, or leaves everything as it was.

    Args:
        folder: The index folder; made when missing.
        write: Writes the generation's files into the empty folder that it is given, and returns the
            manifest without `format_version` and `files`.
        expected: Number of the generation on which this one is based; `None` replaces whatever is there.
        lock_timeout_s: Seconds to wait for another writer.

    Returns:
        The number of the new generation.

    Raises:
        InputError: The path is a file.
        WriterConflictError: Another writer holds the folder, or another generation is current.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{folder} is, or lies in, a file: choose a folder for the index.") from None
    with FolderLock(folder / ".lock", lock_timeout_s):
        current = _current_number(folder)
        if expected is not None and current != expected:
            raise WriterConflictError(
                f"{folder} was changed by another writer since it was opened: load it again, "
                "repeat the change and save."
            )
        for path in leftovers(folder):
            shutil.rmtree(path, ignore_errors=True)
        number = 1 + max([_number(p.name) for p in _generations(folder)] + [current or 0])
        temporary = folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
        temporary.mkdir()
        try:
            digest = _seal(temporary, write(temporary))
            name = f"gen-{number:06d}"
            temporary.rename(folder / name)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _sync_folder(folder)
        pointer = folder / f"{_TEMPORARY}CURRENT"
        _write_synced(pointer, f"{name} {digest}\n".encode())
        os.replace(pointer, folder / "CURRENT")
        _sync_folder(folder)
        for path in _generations(folder):
            if _number(path.name) not in (number, current):
                shutil.rmtree(path, ignore_errors=True)
        return number


def leftovers(folder: Path) -> list[Path]:
    """Temporary folders of writers that died, and generations that never became current."""
    current = _current_number(folder) or 0
    return [
        path
        for path in folder.iterdir()
        if path.is_dir()
        and (
            path.name.startswith(_TEMPORARY) or (_NAME.fullmatch(path.name) and _number(path.name) > current)
        )
    ]


def _seal(folder: Path, contents: dict[str, Any]) -> str:
    """Adds the manifest, forces all files to disk, and returns the manifest's checksum."""
    files = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        files[path.name] = {"size": path.stat().st_size, "sha256": file_digest(path)}
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    manifest = {"format_version": FORMAT_VERSION, **contents, "files": files}
    data = json.dumps(manifest, indent=1, sort_keys=True).encode()
    _write_synced(folder / "manifest.json", data)
    _sync_folder(folder)
    return hashlib.sha256(data).hexdigest()


def _pointer(folder: Path) -> tuple[str, str]:
    try:
        words = (folder / "CURRENT").read_bytes()[:256].decode("ascii").split()
    except (OSError, UnicodeDecodeError):
        words = []
    if len(words) != 2 or not _NAME.fullmatch(words[0]):
        raise IndexCorruptError(
            f"{folder} holds no complete index (its CURRENT file is missing or damaged); "
            "check the path, restore a copy or index again."
        )
    return words[0], words[1]


def _current_number(folder: Path) -> int | None:
    try:
        return _number(_pointer(folder)[0])
    except IndexCorruptError:
        return None


def _manifest(folder: Path, digest: str) -> dict[str, Any]:
    try:
        data = (folder / "manifest.json").read_bytes()
    except OSError as error:
        raise IndexCorruptError(
            f"The manifest of {folder} cannot be read ({error.strerror}); restore a copy or index again."
        ) from None
    if len(data) > _MANIFEST_LIMIT or hashlib.sha256(data).hexdigest() != digest:
        raise IndexCorruptError(f"The manifest of {folder} is damaged; restore a copy or index again.")
    return _parsed(data, folder)


def _part(place: int) -> str:
    return f"part-{place:03d}"


def _parsed(data: bytes, folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(data)
        version = manifest["format_version"]
        files = manifest["files"]
        well_formed = isinstance(version, int) and all(
            isinstance(f["size"], int) and isinstance(f["sha256"], str) and Path(name).name == name
            for name, f in files.items()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        well_formed, version, manifest = False, 0, {}
    if not well_formed:
        raise IndexCorruptError(f"The manifest of {folder} is damaged; restore a copy or index again.")
    if version != FORMAT_VERSION:
        raise IndexCorruptError(
            f"{folder} has format version {version}; this release reads version {FORMAT_VERSION}. "
            "Install the agentprm release that wrote it, or index again."
        )
    return dict(manifest)


def _generations(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]


def _number(name: str) -> int:
    return int(name.removeprefix("gen-"))


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere folders cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
