"""A folder of blobs, worked on by plain blocking calls; :mod:`ambidex.backends.files.blobs` makes a port of it.

The invariant: nothing outside the folder is ever read or written, whatever a key holds and whoever exchanges folders
for links meanwhile: every step down is taken from the open folder above it and follows no link. A blob appears whole or
not at all: it is written under a name that no key can have, flushed if it is to be durable, and then renamed.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ambidex.backends.files.errors import translate
from ambidex.core.keys import blob_segments
from ambidex.core.ports import BlobInfo
from ambidex.errors import Closed, Corrupted, InvalidKey

__all__ = ["Draft", "Reader", "Tree"]

_INCOMING = ".incoming"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # opening a pipe must not wait for its other end


class Tree:
    """The blobs below one folder.

    Args:
        root: returns the folder; called by each operation, because a private database learns its place late.
        durable: whether a blob is flushed to the disk before it is acknowledged.
    """

    def __init__(self, root: Callable[[], str], durable: bool) -> None:
        self._root = root
        self._durable = durable

    def begin(self) -> Draft:
        """Return a new blob that nobody sees yet; opens nothing."""
        return Draft(self)

    def open(self, key: str) -> Reader:
        """Return the blob's content, to be closed; opens nothing."""
        blob_segments(key)
        return Reader(self, key)

    def head(self, key: str) -> BlobInfo | None:
        """Return what is known of the blob, or None."""
        *folders, name = blob_segments(key)
        with self._errors(key):
            try:
                with self._folder(folders) as folder:
                    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    if not stat.S_ISREG(found.st_mode):
                        return None
                    content_type, metadata = _about(name, folder)
            except FileNotFoundError:
                return None
        return BlobInfo(key, found.st_size, found.st_mtime, content_type, metadata)

    def list(self, prefix: str, after: str, limit: int) -> list[BlobInfo]:
        """Return up to ``limit`` blobs below a folder, in the order of their keys, those behind ``after``."""
        folders = blob_segments(prefix[:-1]) if prefix else []
        if prefix and not prefix.endswith("/"):
            raise InvalidKey(f"the prefix {prefix!r} does not end with a slash")
        found: list[BlobInfo] = []
        with self._errors(prefix):
            try:
                with self._folder(folders) as folder:
                    for info in _walk(folder, prefix, after):
                        found.append(info)
                        if len(found) == limit:
                            break
            except FileNotFoundError:
                pass
        return found

    def delete(self, keys: Sequence[str]) -> None:
        """Delete blobs; absent ones are passed over."""
        for key in keys:
            *folders, name = blob_segments(key)
            with self._errors(key):
                try:
                    with self._folder(folders) as folder:
                        _unlink(name, folder)
                        _unlink(_beside(name), folder)
                except FileNotFoundError:
                    pass

    def tidy(self, seconds: float) -> int:
        """Remove drafts that nobody has written to for so long; return how many."""
        removed = 0
        with self._errors(""):
            try:
                with self._folder([_INCOMING]) as folder:
                    for entry in os.scandir(folder):
                        if entry.stat(follow_symlinks=False).st_mtime < time.time() - seconds:
                            _unlink(entry.name, folder)
                            removed += 1
            except FileNotFoundError:
                pass
        return removed

    def probe(self) -> None:
        """Make sure that blobs can be written here."""
        draft = self.begin()
        try:
            draft.write(b"")
        finally:
            draft.discard()

    def flush(self, handle: int) -> None:
        """Wait until a file or folder is on the disk, if that was asked for."""
        if self._durable:
            os.fsync(handle)

    @contextmanager
    def _folder(self, segments: Sequence[str], make: bool = False) -> Iterator[int]:
        """Open a folder below the root, step by step, each from the one above."""
        handle = self._open_root(make)
        try:
            for segment in segments:
                try:
                    below = os.open(segment, _FOLDER, dir_fd=handle)
                except FileNotFoundError:
                    if not make:
                        raise
                    try:
                        os.mkdir(segment, 0o700, dir_fd=handle)
                    except FileExistsError:  # another writer was faster
                        pass
                    self.flush(handle)
                    below = os.open(segment, _FOLDER, dir_fd=handle)
                os.close(handle)
                handle = below
            yield handle
        finally:
            os.close(handle)

    def _open_root(self, make: bool) -> int:
        root = self._root()
        try:
            return os.open(root, os.O_RDONLY | os.O_DIRECTORY)  # whoever configured it may use a link
        except FileNotFoundError:
            if not make:
                raise
            os.makedirs(root, 0o700, exist_ok=True)
            return os.open(root, os.O_RDONLY | os.O_DIRECTORY)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise translate(error, self._root(), key) from None


class Draft:
    """A blob that is being written.

    Its file is opened by the first write. The lock keeps one thread from ending what another still works on: a draft
    that was discarded stays so, whichever of the two comes first.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree, self._name = tree, uuid.uuid4().hex
        self._handle: int | None = None
        self._over = False
        self._guard = threading.Lock()

    def write(self, data: bytes) -> None:
        """Add bytes at the end."""
        with self._guard, self._tree._errors(""):
            handle, rest = self._opened(), memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]

    def publish(self, key: str, content_type: str, metadata: Mapping[str, str]) -> None:
        """Make it the blob of ``key``, in one step."""
        *folders, name = blob_segments(key)
        tree = self._tree
        with self._guard, tree._errors(key):
            tree.flush(self._opened())
            with tree._folder([_INCOMING]) as source, tree._folder(folders, make=True) as target:
                if content_type or metadata:
                    self._describe(source, target, _beside(name), [content_type, dict(metadata)])
                else:
                    _unlink(_beside(name), target)
                os.rename(self._name, name, src_dir_fd=source, dst_dir_fd=target)
                tree.flush(target)
            self._close()

    def discard(self) -> None:
        """Remove it; does nothing after :meth:`publish`."""
        with self._guard, self._tree._errors(""):
            opened = self._handle is not None
            self._close()
            if opened:
                with self._tree._folder([_INCOMING]) as folder:
                    _unlink(self._name, folder)

    def _opened(self) -> int:
        if self._over:
            raise Closed("this draft of a blob was given up")
        if self._handle is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with self._tree._folder([_INCOMING], make=True) as folder:
                self._handle = os.open(self._name, flags, 0o600, dir_fd=folder)
        return self._handle

    def _describe(self, source: int, target: int, name: str, about: list[object]) -> None:
        """Write the type and metadata beside the blob, before the blob: they are not seen without it."""
        draft = self._name + "-about"
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=source)
        try:
            os.write(handle, json.dumps(about).encode())
            self._tree.flush(handle)
        finally:
            os.close(handle)
        os.rename(draft, name, src_dir_fd=source, dst_dir_fd=target)

    def _close(self) -> None:
        self._over = True
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class Reader:
    """A blob that is being read; once it is open it can be read to its end, also when it is deleted meanwhile."""

    def __init__(self, tree: Tree, key: str) -> None:
        self._tree, self._key = tree, key
        self._handle: int | None = None
        self._over = False
        self._guard = threading.Lock()

    def read(self, start: int, most: int | None) -> bytes:
        """Return up to ``most`` bytes (None: all) from ``start`` on.

        Raises:
            NotFound: there is no such blob.
        """
        with self._guard, self._tree._errors(self._key):
            handle = self._opened()
            size = os.fstat(handle).st_size
            wanted = max(0, size - start) if most is None else max(0, min(most, size - start))
            pieces = []
            while wanted:
                piece = os.pread(handle, wanted, start)
                if not piece:
                    break
                pieces.append(piece)
                start += len(piece)
                wanted -= len(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Let go of the file."""
        with self._guard:
            self._over = True
            if self._handle is not None:
                os.close(self._handle)
                self._handle = None

    def _opened(self) -> int:
        if self._over:
            raise Closed("reading this blob was given up")
        if self._handle is None:
            *folders, name = blob_segments(self._key)
            with self._tree._folder(folders) as folder:
                self._handle = _open_plain(name, folder)
        return self._handle


def _beside(name: str) -> str:
    """Return the name of the file with a blob's type and metadata; no key has a part that begins with a dot."""
    return f".{name}.about"


def _about(name: str, folder: int) -> tuple[str, dict[str, str]]:
    try:
        handle = _open_plain(_beside(name), folder)
    except FileNotFoundError:
        return "", {}
    with os.fdopen(handle, "rb") as file:
        try:
            content_type, metadata = json.load(file)
        except ValueError:
            raise Corrupted(f"the description beside the blob {name!r} is damaged; store the blob again") from None
    return content_type, metadata


def _open_plain(name: str, folder: int) -> int:
    handle = os.open(name, _FILE, dir_fd=folder)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise FileNotFoundError(2, "not a plain file", name)


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass


def _walk(folder: int, prefix: str, after: str) -> Iterator[BlobInfo]:
    """Yield what is below a folder in the order of the keys, passing over folders that end before ``after``."""
    for shown in sorted(_shown(entry) for entry in os.scandir(folder) if entry.name[0] != "."):
        key = prefix + shown
        if not shown.endswith("/"):
            if key > after:
                try:
                    found = os.stat(shown, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:  # deleted meanwhile
                    continue
                if stat.S_ISREG(found.st_mode):
                    yield BlobInfo(key, found.st_size, found.st_mtime)
        elif key > after or after.startswith(key):
            try:
                below = os.open(shown[:-1], _FOLDER, dir_fd=folder)
            except FileNotFoundError:
                continue
            try:
                yield from _walk(below, key, after)
            finally:
                os.close(below)


def _shown(entry: os.DirEntry[str]) -> str:
    return entry.name + "/" if entry.is_dir(follow_symlinks=False) else entry.name
