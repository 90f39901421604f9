"""Checks of the built pages: links, pictures, and every public name in the reference.

MkDocs calls the functions named ``on_...``; `faults` also serves the tests.
"""

import html.parser
import importlib
import inspect
import pathlib
import urllib.parse

_PACKAGES = ("masks", "functional", "linen", "nnx", "mc", "uncertainty", "plots")


class _Page(html.parser.HTMLParser):
    """What a page offers to links, and what it links to."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.pictures_without_words = set(), [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag in ("a", "link") and given.get("href"):
            self.links.append(given["href"])
        if tag in ("img", "script") and given.get("src"):
            self.links.append(given["src"])
        if tag == "img" and not given.get("alt"):
            self.pictures_without_words.append(given.get("src"))


def faults(site):
    """Broken links and pictures, pictures without a description, and names not in the reference.

    Args:
        site: folder of the built pages.

    Returns:
        A line for each.
    """
    site = pathlib.Path(site).resolve()
    pages = {path: _Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    found = []
    for path, page in pages.items():
        own = path.relative_to(site)
        found += [f"{own}: picture without a description: {s}" for s in page.pictures_without_words]
        found += [f"{own}: broken: {link}" for link in page.links if not _leads(path, link, pages)]
    return found + list(_names_missing(pages, site))


def _leads(path, link, pages):
    parts = urllib.parse.urlsplit(link)
    if parts.scheme or parts.netloc:
        return True  # other sites are not checked
    place = urllib.parse.unquote(parts.path)
    target = (path.parent / place).resolve() if place else path
    if target.is_dir():
        target /= "index.html"
    fragment = urllib.parse.unquote(parts.fragment)
    # Links such as __nothing belong to the controls of the theme.
    if target in pages and fragment and not fragment.startswith("__"):
        return fragment in pages[target].anchors
    return target.is_file()


def _names_missing(pages, site):
    for package in _PACKAGES:
        page = pages.get(site / "api" / package / "index.html")
        anchors = page.anchors if page else set()
        for name in names(package):
            if f"jaxdrop.{package}.{name}" not in anchors:
                yield f"jaxdrop.{package}.{name}: not in the reference"


def names(package):
    """What the reference explains: public names, and how a layer is called."""
    module = importlib.import_module(f"jaxdrop.{package}")
    for name in module.__all__:
        yield name
        if package in ("linen", "nnx") and inspect.isclass(getattr(module, name)):
            yield f"{name}.__call__"


def on_post_build(config, **_):
    """Fails the build if a page is faulty."""
    found = faults(config["site_dir"])
    if found:
        from mkdocs.exceptions import Abort

        raise Abort("\n".join(["The built pages have faults:", *found]))
