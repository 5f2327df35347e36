"""Hooks of mkdocs: a link from a page to a file of the repository leads to a page that shows it.

Pages link to sources by their path, such as `../vla/control/safety.py`, so that links also work
where the repository is browsed. The site shows each file that is linked to, as `source/PATH`.
A link to nothing is a warning, which `make docs` treats as an error.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
LOG = logging.getLogger("mkdocs.plugins.sources")
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(?:#[^)\s]*)?(?=\))")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".xml": "xml", ".md": "markdown", ".sh": "bash"}


def source_of(page: str, target: str) -> str | None:
    """The path, from the root, that `page` of docs/ links to by `target`; None if it is a page."""
    if "://" in target or target.startswith(("mailto:", "#")):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith("docs/") else path


def on_files(files, config):
    """Adds a page for every source that a page links to, and returns the files."""
    sources = set()
    for page in files.documentation_pages():
        for target in LINK.findall(page.content_string):
            path = source_of(page.src_uri, target)
            if path is None:
                continue
            if (ROOT / path).exists():
                sources.add(path)
            else:
                LOG.warning("%s links to %s, which does not exist", page.src_uri, path)
    if "README.md" in sources:
        targets = LINK.findall((ROOT / "README.md").read_text())
        sources |= {t for t in targets if "://" not in t and not t.startswith("docs/")}
    for path in sorted(sources):
        files.append(File.generated(config, f"source/{path}.md", content=_page_of(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Turns links to sources into links to their pages."""
    here = posixpath.dirname(page.file.src_uri)

    def replaced(match):
        path = source_of(page.file.src_uri, match[1])
        if path is None or page.file.src_uri.startswith("source/"):
            return match[0]
        fragment = match[0].partition("#")[2] if path == "README.md" else ""  # others are code
        return posixpath.relpath(f"source/{path}.md", here or ".") + (fragment and f"#{fragment}")

    return LINK.sub(replaced, markdown)


def _readme() -> str:
    """README.md as a page of source/, next to the other sources and below the pages of docs/."""

    def replaced(match):
        target = match[1]
        if "://" in target:
            return match[0]
        if target.startswith("docs/"):
            return match[0].replace("docs/", "../", 1)
        return f"{target}.md"

    return LINK.sub(replaced, (ROOT / "README.md").read_text())


def _page_of(path: str) -> str:
    if path == "README.md":
        return _readme()
    source = ROOT / path
    named = sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]
    parts = [f"# `{path}`"]
    for file in named:
        if source.is_dir():
            parts.append(f"## `{file.name}`")
        language = LANGUAGES.get(file.suffix, "text")
        parts.append(f"`````{language}\n{file.read_text().rstrip()}\n`````")
    return "\n\n".join(parts) + "\n"
