"""A built site: its pages, and what they link to."""

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

LOADED = {"script", "img", "iframe", "source", "video", "audio"}  # and <link> but for those of other purposes
ONLY_NAMED = {"canonical", "prev", "next", "alternate", "edit"}


@dataclass
class Links(HTMLParser):
    """The anchors of a page, its links, and the files that a browser loads to show it."""

    anchors: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if target := values.get("href") or values.get("src"):
            self.links.add(target)
            if tag in LOADED or (tag == "link" and values.get("rel") not in ONLY_NAMED):
                self.loaded.add(target)


def read_pages(site: Path) -> dict[str, Links]:
    """The pages of a folder by their paths from it."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        pages[path.relative_to(site).as_posix()] = links = Links()
        links.feed(path.read_text("utf-8"))
    return pages


def broken_links(site: Path, pages: dict[str, Links]) -> list[str]:
    """The links inside the site that lead to no file, or to no anchor of a page, as `page: link`."""
    broken = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(urljoin(f"/{name}", link))
            if parts.scheme or parts.netloc:
                continue
            target = unquote(parts.path).lstrip("/")
            if target.endswith("/") or not target:
                target += "index.html"
            anchor = unquote(parts.fragment)
            known = pages[target].anchors if target in pages else set()
            if not (site / target).is_file() or (anchor and anchor not in known):
                broken.append(f"{name}: {link}")
    return broken


def loaded_from_elsewhere(pages: dict[str, Links]) -> set[str]:
    """Addresses of other servers from which the pages load scripts, styles, fonts or images."""
    return {link for page in pages.values() for link in page.loaded if urlsplit(link).netloc}
