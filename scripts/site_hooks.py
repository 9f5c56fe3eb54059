"""Hooks of the documentation site: pages from outside docs/, links between files, and notebooks.

MkDocs reads only docs/. A page of `nav` that docs/ lacks is read from the repository, at the same path.
Relative links lead to the same files as on GitHub: in the site, a file of docs/ has its path without docs/,
and any other file its path in the repository. Linked files that are not pages are copied into the site.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.nav = renamed(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        add_notebook(notebook, files, config)
    for path in pages(config.nav):
        add_file(path, files, config)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    markdown, targets = with_site_links(markdown, page.file.src_uri)
    for target in targets:
        add_file(target, files, config)
    return markdown


def on_post_page(output: str, **_: Any) -> str:
    """Keep the theme's script from asking GitHub for the number of stars, where `repo_url` is set."""
    return output.replace(' data-md-component="source"', "")


def with_site_links(markdown: str, here: str) -> tuple[str, list[str]]:
    """The text of a page with the links of the site, and the paths in the site that they lead to.

    Args:
        here: the path of the page in the site.
    """
    in_docs = (ROOT / "docs" / here).is_file() or here.endswith("-notebook.md")
    folder = posixpath.dirname(posixpath.join("docs", here) if in_docs else here)
    targets = []

    def site_link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match.group(1)))
        if not (ROOT / path).is_file():
            return match.group(1)  # other text in brackets, or a wrong link, which MkDocs reports
        targets.append(renamed(path.removeprefix("docs/")))
        return posixpath.relpath(targets[-1], posixpath.dirname(here) or ".")

    return LINK.sub(site_link, markdown), targets


def renamed(value: Any) -> Any:
    """The value of `nav` or a path with the pages of notebooks, which have a name of their own: docs/ has
    tutorial.md and tutorial.ipynb.
    """
    if isinstance(value, str):
        return re.sub(r"\.ipynb$", "-notebook.md", value)
    if isinstance(value, list):
        return [renamed(part) for part in value]
    return {title: renamed(part) for title, part in value.items()}


def pages(nav: Any) -> Iterator[str]:
    """The paths in `nav`."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(part)


def add_file(path: str, files: Files, config: MkDocsConfig) -> None:
    """Add a file of the repository to the site, unless the site has it."""
    if files.get_file_from_path(path) is None and (ROOT / path).is_file():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))


def add_notebook(notebook: File, files: Files, config: MkDocsConfig) -> None:
    """Add the page of a notebook with its stored outputs; the notebook itself can be downloaded."""
    from nbconvert import MarkdownExporter  # takes a second

    body, resources = MarkdownExporter().from_filename(str(ROOT / "docs" / notebook.src_uri))
    page = renamed(notebook.src_uri)
    outputs = posixpath.splitext(page)[0]
    for name, content in resources["outputs"].items():
        body = body.replace(f"]({name})", f"]({posixpath.basename(outputs)}/{name})")
        files.append(File.generated(config, f"{outputs}/{name}", content=content))
    files.append(File.generated(config, page, content=body))
