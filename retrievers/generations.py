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
until the next save, for readers that are just opening it and for `roll_back`.
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

from agentprm.errors import AgentPRMError, IndexCorruptError, InputError, StorageError
from agentprm.retrievers.files import (
    FolderLock,
    WriterConflictError,
    create_file,
    open_regular,
    read_bounded,
    refuse_link,
    storage_errors,
)

__all__ = [
    "FORMAT_VERSION",
    "Generation",
    "commit",
    "current_pointer",
    "generations",
    "is_own_name",
    "leftovers",
    "open_current",
    "open_generation",
    "open_part",
    "point_to",
    "read_current",
    "seal_part",
]

T = TypeVar("T")

FORMAT_VERSION = 1
_NAME = re.compile(r"gen-(\d{6,12})")
_TEMPORARY = "tmp-"
_MANIFEST_LIMIT = 16 << 20
_POINTER_LIMIT = 256
# Files up to this size are verified whenever they are opened, larger ones on request.
_QUICK_BYTES = 64 << 20
_ATTEMPTS = 20


class Generation(NamedTuple):
    """An opened generation: its folder, its manifest, and the manifest's checksum, which is right."""

    folder: Path
    manifest: dict[str, Any]
    digest: str

    @property
    def number(self) -> int:
        """Its number."""
        return _number(self.folder.name)

    @property
    def pointer(self) -> str:
        """What `CURRENT` says when this generation is the current one."""
        return f"{self.folder.name} {self.digest}"

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
            self.require(name)
            path, size = self.folder / name, files[name]["size"]
            try:
                with open_regular(path) as file:
                    found = os.fstat(file.fileno()).st_size
                    if found != size:
                        raise IndexCorruptError(
                            f"{path} has {found} bytes instead of {size}; restore a copy or index again."
                        )
                    if not everything and size > _QUICK_BYTES:
                        continue
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                reason = (
                    "is missing"
                    if isinstance(error, FileNotFoundError)
                    else f"cannot be read ({error.strerror})"
                )
                raise IndexCorruptError(f"{path} {reason}; restore a copy or index again.") from None
            if digest != files[name]["sha256"]:
                raise IndexCorruptError(f"{path} is damaged (wrong checksum); restore a copy or index again.")

    def require(self, *names: str) -> None:
        """Checks that the manifest has files, and so their checksums.

        Raises:
            IndexCorruptError: It lacks one.
        """
        for name in names:
            if name not in self.manifest["files"]:
                raise IndexCorruptError(
                    f"{self.folder / name} is not in the manifest; restore a copy or index again."
                )

    def read(self, name: str) -> bytes:
        """Bytes of a file, verified before they are returned.

        Raises:
            IndexCorruptError: The file is missing or damaged.
        """
        path = self.folder / name
        self.require(name)
        try:
            data = read_bounded(path, self.manifest["files"][name]["size"])
        except OSError as error:
            raise IndexCorruptError(f"{path} cannot be read ({error.strerror}); index again.") from None
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise IndexCorruptError(f"{path} is damaged (wrong checksum); restore a copy or index again.")
        return data


def open_current(folder: Path) -> Generation:
    """The generation that `CURRENT` points to.

    Raises:
        InputError: The folder does not exist.
        IndexCorruptError: It holds no index, a damaged one, or one of another format version.
    """
    if not folder.is_dir():
        raise InputError(f"There is no index folder {folder}: check the path, or build the index first.")
    pointer = current_pointer(folder)
    if pointer is None:
        raise IndexCorruptError(
            f"{folder} holds no complete index (its CURRENT file is missing or damaged); "
            "check the path, restore a copy or index again."
        )
    return open_generation(folder / pointer[0], pointer[1])


def open_generation(folder: Path, digest: str | None = None) -> Generation:
    """A generation whose manifest has the given checksum, or any.

    Raises:
        IndexCorruptError: It is missing or damaged.
    """
    refuse_link(folder)
    try:
        data = read_bounded(folder / "manifest.json", _MANIFEST_LIMIT)
    except OSError as error:
        raise IndexCorruptError(
            f"The manifest of {folder} cannot be read ({error.strerror}); restore a copy or index again."
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if digest is not None and found != digest:
        raise IndexCorruptError(f"The manifest of {folder} is damaged; restore a copy or index again.")
    return Generation(folder, _parsed(data, folder), found)


def open_part(whole: Generation, place: int, digest: str) -> Generation:
    """A part of a generation, whose manifest has the given checksum.

    Raises:
        IndexCorruptError: It is missing or damaged.
    """
    return open_generation(whole.folder / _part(place), digest)


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
        before = current_pointer(folder)
        try:
            return use(open_current(folder))
        except (IndexCorruptError, OSError) as error:
            if isinstance(error, StorageError) or current_pointer(folder) == before:
                if isinstance(error, AgentPRMError):
                    raise
                raise IndexCorruptError(
                    f"{folder} cannot be read ({error.strerror or error}); restore a copy or index again."
                ) from error
    raise IndexCorruptError(f"{folder} is being replaced faster than it can be read; try again later.")


def commit(
    folder: Path,
    write: Callable[[Path], dict[str, Any]],
    *,
    base: set[str] | None,
    lock_timeout_s: float,
) -> str:
    """Writes a generation and makes it the current one, or leaves everything as it was.

    Args:
        folder: The index folder; made when missing.
        write: Writes the generation's files into the empty folder that it is given, and returns the
            manifest without `format_version` and `files`.
        base: Pointers of generations on which this one may be based; `None` replaces whatever is there. That
            of the new one is added before the switch, so that a caller who is interrupted right after it
            knows the generation for its own.
        lock_timeout_s: Seconds to wait for another writer.

    Returns:
        The pointer to the new generation.

    Raises:
        InputError: The path is a file.
        StorageError: The disk is full or fails; the index is as it was.
        WriterConflictError: Another writer holds the folder, or another generation is current.
    """
    with storage_errors(folder, "The index there is as it was."):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{folder} is, or lies in, a file: choose a folder for the index.") from None
        with FolderLock(folder / ".lock", lock_timeout_s):
            current = current_pointer(folder)
            if base is not None and (current is None or " ".join(current) not in base):
                raise WriterConflictError(
                    f"{folder} was changed by another writer since it was opened: load it again, "
                    "repeat the change and save."
                )
            for path in leftovers(folder):
                shutil.rmtree(path, ignore_errors=True)
            number = 1 + (_number(current[0]) if current else 0)
            while os.path.lexists(folder / f"gen-{number:06d}"):  # whatever it is, it is not ours to replace
                number += 1
            temporary = folder / f"{_TEMPORARY}{uuid.uuid4().hex}"
            temporary.mkdir()
            name = f"gen-{number:06d}"
            try:
                pointer = f"{name} {_seal(temporary, write(temporary))}"
                temporary.rename(folder / name)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            _sync_folder(folder)
            if base is not None:
                base.add(pointer)
            point_to(folder, pointer)
            for path in generations(folder):
                if path.name not in (name, current[0] if current else name):
                    shutil.rmtree(path, ignore_errors=True)
            return pointer


def point_to(folder: Path, pointer: str) -> None:
    """Makes a generation the current one; the caller holds the folder's lock."""
    temporary = folder / f"{_TEMPORARY}CURRENT"
    temporary.unlink(missing_ok=True)  # of a writer that died, or a link that somebody laid
    _write_synced(temporary, f"{pointer}\n".encode())
    os.replace(temporary, folder / "CURRENT")
    _sync_folder(folder)


def leftovers(folder: Path) -> list[Path]:
    """Temporary folders of writers that died, and generations that never became current."""
    pointer = current_pointer(folder)
    current = _number(pointer[0]) if pointer else 0
    return [
        path
        for path in folder.iterdir()
        if path.is_dir()
        and not path.is_symlink()
        and (
            path.name.startswith(_TEMPORARY) or (_NAME.fullmatch(path.name) and _number(path.name) > current)
        )
    ]


def generations(folder: Path) -> list[Path]:
    """Folders of all generations, oldest first."""
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir() and not p.is_symlink()]
    return sorted(found, key=lambda path: _number(path.name))


def is_own_name(name: str) -> bool:
    """Whether an index folder has an entry of this name, finished or not."""
    return name in ("CURRENT", ".lock") or name.startswith(_TEMPORARY) or _NAME.fullmatch(name) is not None


def _seal(folder: Path, contents: dict[str, Any]) -> str:
    """Adds the manifest, forces all files to disk, and returns the manifest's checksum."""
    files = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb+") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[path.name] = {"size": os.fstat(file.fileno()).st_size, "sha256": digest}
            os.fsync(file.fileno())
    manifest = {"format_version": FORMAT_VERSION, **contents, "files": files}
    data = json.dumps(manifest, indent=1, sort_keys=True).encode()
    _write_synced(folder / "manifest.json", data)
    _sync_folder(folder)
    return hashlib.sha256(data).hexdigest()


def current_pointer(folder: Path) -> tuple[str, str] | None:
    """Name of the current generation and its manifest's checksum; `None` where there is none."""
    try:
        words = read_bounded(folder / "CURRENT", _POINTER_LIMIT).decode("ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    return (words[0], words[1]) if len(words) == 2 and _NAME.fullmatch(words[0]) else None


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


def _number(name: str) -> int:
    return int(name.removeprefix("gen-"))


def _write_synced(path: Path, data: bytes) -> None:
    with create_file(path) as file:
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
