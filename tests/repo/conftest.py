"""Read the project's documents: code spans, code blocks, links and tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
DOCUMENTS = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Document:
    """One document, taken apart."""

    path: Path
    text: str

    @property
    def prose(self) -> str:
        """The text without its code blocks."""
        return _BLOCK.sub("", self.text)

    @property
    def spans(self) -> list[str]:
        """Inline code."""
        return _SPAN.findall(self.prose)

    @property
    def links(self) -> list[str]:
        """Targets of links."""
        return _LINK.findall(self.prose)

    @property
    def commands(self) -> list[str]:
        """Inline code, and lines of shell blocks: continued lines joined, comments cut off."""
        lines = list(self.spans)
        for language, block in _BLOCK.findall(self.text):
            if language in ("bash", "sh", "shell", "console"):
                joined = re.sub(r"\\\n\s*", "", block)
                lines += [re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines()]
        return [line for line in lines if line]

    def table(self, *header: str) -> Iterator[list[str]]:
        """Rows of every table with this header, cells without back-ticks."""
        inside = False
        for line in self.prose.splitlines():
            cells = [cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")]
            if not line.startswith("|"):
                inside = False
            elif cells == list(header):
                inside = True
            elif inside and not set(line) <= set("|-: "):
                yield cells


def read(name: str) -> Document:
    """One document by its path from the root."""
    return Document(ROOT / name, (ROOT / name).read_text())


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    """All documents; an error if one is missing."""
    return [read(str(path.relative_to(ROOT))) for path in DOCUMENTS]


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def document(request) -> Document:
    """Each document in turn."""
    return read(str(request.param.relative_to(ROOT)))


@pytest.fixture(scope="session")
def architecture() -> Document:
    """The page about the code."""
    return read("ARCHITECTURE.md")


@pytest.fixture(scope="session")
def configuration() -> Document:
    """The page about configuration keys."""
    return read("docs/configuration.md")
