"""Tables of the reference, checks of the built pages, and their list for language models.

MkDocs calls the functions named ``on_...``; `faults` also serves the tests.
"""

import html.parser
import importlib
import inspect
import pathlib
import re
import urllib.parse

_PACKAGES = ("masks", "functional", "linen", "nnx", "mc", "uncertainty", "plots")

# What most readers of a page of the reference came for: it opens with these.
_FIRST = {
    "masks": ("sample", "Mask"),
    "functional": ("dropout", "drop_path", "dot_product_attention"),
    "linen": ("Dropout", "DropPath", "attention_fn", "replace_dropout"),
    "nnx": ("Dropout", "DropPath", "attention_fn", "replace_dropout"),
    "mc": ("predict", "from_linen", "from_nnx", "predict_batches", "audit", "classification"),
    "uncertainty": ("mutual_information", "expected_entropy", "predictive_entropy"),
    "plots": (),
}


_menu, _sentences = [], {}  # pages in the order of the menu, and what each begins with


def on_nav(nav, **_):
    """Keeps the order of the menu."""
    _menu[:] = nav.pages


def on_page_markdown(markdown, page, **_):
    """Opens each page of the reference with a table of its names, the main ones first."""
    _sentences[page.url] = _first_sentence(markdown)
    return re.sub(r"^::: jaxdrop\.(\w+)$", _reference, markdown, flags=re.MULTILINE)


def _reference(line):
    package = line[1]
    module = importlib.import_module(f"jaxdrop.{package}")
    first = _FIRST[package]
    results = [name for name in module.__all__ if package == "mc" and name[0].isupper()]
    others = [name for name in module.__all__ if name not in (*first, *results)]
    order = [*first, *others, *results]
    rows = (
        f"| [`{name}`][jaxdrop.{package}.{name}] | {_in_one_line(getattr(module, name))} |"
        for name in order
    )
    members = ", ".join(order)
    options = f"    options: {{members: [{members}]}}"
    return "\n".join(["| name | what it is |", "| --- | --- |", *rows, "", line[0], options])


def on_page_content(html, **_):
    """Lets long names in tables break on a phone: after ``_`` and ``.``, and before a capital."""
    return re.sub(r"<td[ >].*?</td>", _breakable, html, flags=re.DOTALL)


def _breakable(cell):
    places = r"(?<=[_.])(?=[^\W\d])|(?<=[a-z])(?=[A-Z])"
    return re.sub(r"<code>[^<]*", lambda code: re.sub(places, "<wbr>", code[0]), cell[0])


def _first_sentence(markdown):
    """Of the first paragraph of a page, as plain text."""
    for paragraph in markdown.split("\n\n"):
        if re.match(r"(?!```)[\w`*]", paragraph):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph.replace("\n", " "))
            return re.split(r"(?<=[.?]) ", text.replace("**", ""))[0]
    return ""


def _in_one_line(thing):
    text = inspect.getdoc(thing).split("\n\n")[0].replace("\n", " ")
    return text.replace("``", "`").replace("|", r"\|")


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
    """Writes the list of the pages for language models; fails the build if a page is faulty."""
    lines = [f"# {config['site_name']}", "", f"> {config['site_description']}", ""]
    section = ""
    for page in _menu:
        if page.parent and page.parent.title != section:
            section = page.parent.title
            lines += ["", f"## {section}", ""]
        lines += [f"- [{page.title}]({page.url or './'}): {_sentences[page.url]}"]
    pathlib.Path(config["site_dir"], "llms.txt").write_text("\n".join([*lines, ""]), "utf-8")
    found = faults(config["site_dir"])
    if found:
        from mkdocs.exceptions import Abort

        raise Abort("\n".join(["The built pages have faults:", *found]))
