"""The documentation pages, and what tests read from them: links, headings, commands and their output."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[1]
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
_FENCED = re.compile(r"```.*?```", re.DOTALL)


class Page(NamedTuple):
    """One Markdown file."""

    path: Path
    text: str

    @property
    def links(self) -> list[str]:
        """The targets of its links, except those to other sites."""
        return [each for each in _LINK.findall(_FENCED.sub("", self.text)) if "://" not in each]

    @property
    def anchors(self) -> set[str]:
        """The anchors of its headings, as GitHub forms them."""
        titles = (re.sub(r"[^\w\- ]", "", each.lower()) for each in _HEADING.findall(_FENCED.sub("", self.text)))
        return {each.replace(" ", "-") for each in titles}

    def reaches(self, target: str) -> bool:
        """Whether the file of *target* exists, and its heading, if *target* names one."""
        name, _, anchor = target.partition("#")
        path = (self.path.parent / name).resolve() if name else self.path
        return path.exists() and (not anchor or anchor in Page(path, path.read_text()).anchors)

    def section(self, heading: str) -> str:
        """The text below *heading*, up to the next heading of its level or above."""
        level = heading.partition(" ")[0]
        rest = self.text.split(f"\n{heading}\n", 1)[1]
        return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


class Command(NamedTuple):
    """A command that a page shows, and its output lines."""

    line: str
    printed: str


def commands(page: Page) -> Iterator[Command]:
    """Each command of the page's console blocks; one goes on while a quote is open or its line ends in a backslash."""
    for block in _CONSOLE.findall(page.text):
        for each in f"\n{block}".split("\n$ ")[1:]:
            lines = each.rstrip("\n").split("\n")
            size = 1
            while size < len(lines) and _goes_on("\n".join(lines[:size])):
                size += 1
            yield Command("\n".join(lines[:size]), "\n".join(lines[size:]))


def _goes_on(typed: str) -> bool:
    return typed.endswith("\\") or typed.count("'") % 2 == 1


def _page(path: Path) -> Page:
    return Page(path, path.read_text(encoding="utf-8"))


PAGES: Final = {
    str(path.relative_to(ROOT)): _page(path)
    for path in (
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "benchmarks/README.md",
        *sorted(ROOT.glob("docs/*.md")),
    )
}
"""The pages by their path in the project."""
