"""Where the texts come from: a user's folder, or what ambidex says about itself; the demo and ``ingest`` call this.

The invariant: only text is returned (UTF-8 without NUL), hidden folders and build results are left out, and what was
left out is counted.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ambidex.errors import ConfigurationError

__all__ = ["OWN_QUESTIONS", "Corpus", "Text", "own_texts", "questions_about", "read_folder"]

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


class Corpus(NamedTuple):
    """Texts, where they came from, and how many files there held none."""

    texts: list[Text]
    origin: str
    skipped: int = 0


def read_folder(path: str) -> Corpus:
    """Read every text file below a folder, or the one file.

    Raises:
        ConfigurationError: the path does not exist, cannot be read, or holds no text.
    """
    if not os.path.exists(path):
        raise ConfigurationError(f"there is no file or folder {path!r}")
    root = path if os.path.isdir(path) else os.path.dirname(path)
    texts: list[Text] = []
    skipped = 0
    for name in [path] if os.path.isfile(path) else _files(path):
        content = _read(name)
        if content is None:
            skipped += 1
        else:
            relative = os.path.relpath(name, root or ".").replace(os.sep, "/")
            texts.append(Text(relative, _title(relative, content), content))
    if not texts:
        raise ConfigurationError(
            f"{path!r} holds no text: {skipped} files were looked at, and none was UTF-8 of at most 2 MiB"
        )
    return Corpus(texts, path, skipped)


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
    for place, folders, names in os.walk(folder, onerror=_refused):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name.lower() not in _SKIPPED_FOLDERS
        )
        for name in sorted(names):
            if not name.startswith("."):
                yield os.path.join(place, name)


def _refused(error: OSError) -> None:
    raise ConfigurationError(f"cannot read {error.filename!r}: {error.strerror}") from None


def _read(path: str) -> str | None:
    """Return a file's text, or None where it holds none."""
    try:
        if os.path.getsize(path) > _MOST_BYTES or not os.path.isfile(path):
            return None
        with open(path, encoding="utf-8") as file:
            content = file.read()
    except (OSError, UnicodeDecodeError):
        return None
    return content if content.strip() and "\x00" not in content else None


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
        source = _read(name)
        if source is None:
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
