"""Where the texts come from: a user's folder, or what ambidex says about itself; the demo and ``ingest`` call this.

The invariant: only text is returned (UTF-8 without NUL), hidden folders and build results are passed over, and every
other file that is left out is named with the reason.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ambidex.errors import ConfigurationError

__all__ = [
    "OWN_QUESTIONS",
    "Corpus",
    "LeftOut",
    "Text",
    "list_files",
    "none_of_them",
    "own_texts",
    "questions_about",
    "read_folder",
    "read_texts",
]

_SKIPPED_FOLDERS = {"__pycache__", "build", "dist", "node_modules", "site-packages", "venv"}
_MOST_BYTES = 2 * 1024 * 1024

OWN_QUESTIONS = (
    "How does one source serve synchronous and asynchronous code?",
    "Does an acknowledged write survive a power cut?",
    "Why is pickle not used for values?",
    "How are keys escaped so that tenants stay apart?",
    "Is stored data readable when no space is left?",
    "How long may a transaction hold the writer?",
    "How do I set a deadline for a call?",
    "What happens to open connections after a fork?",
)
"""Questions that ambidex's own texts answer."""


class Text(NamedTuple):
    """One text of the corpus."""

    path: str
    """Its name, relative to the folder it came from."""
    title: str
    content: str


class LeftOut(NamedTuple):
    """A file that gives no document."""

    path: str
    """Its name, as that of a :class:`Text`."""
    why: str


class Corpus(NamedTuple):
    """Texts, where they came from, and what was left out there."""

    texts: list[Text]
    origin: str
    left_out: Sequence[LeftOut] = ()


def read_folder(path: str) -> Corpus:
    """Read every text file below a folder, or the one file.

    Raises:
        ConfigurationError: the path does not exist, cannot be read, or holds no text.
    """
    texts: list[Text] = []
    left_out: list[LeftOut] = []
    for one in read_texts(path, list_files(path)):
        if isinstance(one, Text):
            texts.append(one)
        else:
            left_out.append(one)
    if not texts:
        raise none_of_them(path, left_out)
    return Corpus(texts, path, left_out)


def list_files(path: str) -> list[str]:
    """Return the names of the files below a folder, or that of the one file.

    Raises:
        ConfigurationError: the path does not exist or cannot be read.
    """
    if not os.path.exists(path):
        raise ConfigurationError(f"there is no file or folder {path!r}")
    if not os.path.isdir(path):
        return [path]
    try:
        os.scandir(path).close()
    except OSError as error:
        raise ConfigurationError(f"cannot read {path!r}: {error.strerror}") from None
    return list(_files(path))


def read_texts(path: str, files: Iterable[str]) -> Iterator[Text | LeftOut]:
    """Read files one by one.

    Args:
        path: the folder in which they are, or the one file.
        files: from :func:`list_files`.
    """
    root = path if os.path.isdir(path) else os.path.dirname(path)
    real = os.path.realpath(root or ".")
    for name in files:
        relative = os.path.relpath(name, root or ".").replace(os.sep, "/")
        try:
            content = _read(name, real if name != path else None)
            relative.encode()
        except UnicodeEncodeError:
            yield LeftOut(relative.encode(errors="backslashreplace").decode(), "its name is not UTF-8")
        except UnicodeDecodeError:
            yield LeftOut(relative, "not UTF-8")
        except (OSError, ValueError) as error:
            yield LeftOut(relative, getattr(error, "strerror", None) or str(error))
        else:
            yield Text(relative, _title(relative, content), content)


def none_of_them(path: str, left_out: Sequence[LeftOut]) -> ConfigurationError:
    """Return the error that says of a folder that it holds no text."""
    first = f" (the first, {left_out[0].path!r}: {left_out[0].why})" if left_out else ""
    return ConfigurationError(
        f"{path!r} holds no text: {len(left_out)} files were looked at, and none was UTF-8 of at most 2 MiB{first}"
    )


def own_texts() -> Corpus:
    """Return what ambidex says about itself.

    In a checkout: the README and the documents; everywhere: the docstrings of its modules, and in an installed package
    the README out of its metadata.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    checkout = os.path.dirname(os.path.dirname(package))
    texts: list[Text] = []
    if os.path.isfile(os.path.join(checkout, "pyproject.toml")) and os.path.isdir(os.path.join(checkout, "docs")):
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
            if os.path.isfile(os.path.join(checkout, name)):
                texts += read_folder(os.path.join(checkout, name)).texts
        texts += [text._replace(path=f"docs/{text.path}") for text in read_folder(os.path.join(checkout, "docs")).texts]
        origin = "the documents and docstrings of ambidex"
    else:
        texts += _readme_of_the_package()
        origin = "the docstrings of ambidex"
    texts += _docstrings(package)
    return Corpus(texts, origin)


def questions_about(texts: Sequence[Text], most: int = 8) -> list[str]:
    """Make questions out of the titles of some texts, spread over all of them."""
    titles = list(dict.fromkeys(text.title for text in texts))
    step = max(1, len(titles) // most)
    return [f"What is said about {title}?" for title in titles[::step][:most]]


def _files(folder: str) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name.lower() not in _SKIPPED_FOLDERS
        )
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(place, name)


def _read(path: str, root: str | None = None) -> str:
    """Return a file's text.

    Args:
        path: of the file.
        root: the folder out of which no link may lead; None: wherever it leads, the caller has named it.

    Raises:
        ValueError: it holds none, or must not be read; the error says why.
        OSError: it cannot be read.
    """
    if root is not None and os.path.islink(path) and os.path.commonpath([root, os.path.realpath(path)]) != root:
        raise ValueError("a link that leads out of the folder")
    if not os.path.isfile(path):
        raise ValueError("not a file")
    if os.path.getsize(path) > _MOST_BYTES:
        raise ValueError("larger than 2 MiB")
    with open(path, encoding="utf-8-sig") as file:  # without the mark that some editors put first
        content = file.read()
    if "\x00" in content:
        raise ValueError("binary")
    if not content.strip():
        raise ValueError("empty")
    return content


def _title(path: str, content: str) -> str:
    """Return a Markdown text's first heading, else the file's name."""
    heading = (
        re.search(r"^#{1,3}\s+(.+?)\s*#*$", content, re.MULTILINE) if path.endswith((".md", ".markdown")) else None
    )
    return heading.group(1) if heading else os.path.splitext(os.path.basename(path))[0].replace("_", " ")


def _readme_of_the_package() -> list[Text]:
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        readme = metadata("ambidex").get_payload()  # type: ignore[attr-defined]  # it is an email.message.Message
    except PackageNotFoundError:
        return []
    return [Text("README.md", "ambidex", readme)] if readme and readme.strip() else []


def _docstrings(package: str) -> list[Text]:
    """Return one text for each module: its docstring and those of its public classes and functions."""
    texts: list[Text] = []
    for name in _files(package):
        if not name.endswith(".py"):
            continue
        try:
            source = _read(name)
        except (OSError, ValueError):
            continue
        relative = os.path.relpath(name, os.path.dirname(package))
        module = relative[:-3].replace(os.sep, ".").removesuffix(".__init__")
        content = "\n\n".join(_documented(ast.parse(source)))
        if content:
            texts.append(Text(relative.replace(os.sep, "/"), module, content))
    return texts


def _documented(tree: ast.AST, owner: str = "") -> Iterator[str]:
    if not isinstance(tree, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return
    name = "" if isinstance(tree, ast.Module) else tree.name
    if name.startswith("_"):
        return
    path = f"{owner}.{name}" if owner else name
    text = ast.get_docstring(tree)
    if text:
        yield f"{path}: {text}" if path else text
    for child in tree.body:
        yield from _documented(child, path)
