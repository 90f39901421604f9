"""Looks at the built pages in a browser: ``python docs/browser.py SITE [--chromium PATH]``.

Each page is opened on a desktop and on a phone, in both colours; a line is printed for each message
on the console, each file that does not load, each picture without pixels, and each page that is
wider than the screen. Needs ``pip install playwright``, and a Chromium (``playwright install
chromium``, or the path of one that is there).
"""

import argparse
import functools
import http.server
import pathlib
import sys
import threading

from playwright.sync_api import sync_playwright

_SCREENS = {"desktop": (1280, 800), "phone": (390, 844)}
_PICTURES_WITHOUT_PIXELS = (
    "[...document.images].filter(one => !one.complete || !one.naturalWidth).map(one => one.src)"
)
_WIDTH = "document.documentElement.scrollWidth"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def _serve(site):
    handler = functools.partial(_Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def faults(site, chromium=None, pictures=None):
    """What is wrong with the pages.

    Args:
        site: folder of the built pages.
        chromium: path of the browser; None for playwright's own.
        pictures: folder for a picture of each page, or None.

    Yields:
        A line for each fault.
    """
    site = pathlib.Path(site)
    pages = [path.relative_to(site) for path in sorted(site.rglob("*.html"))]
    address = _serve(site)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (width, height) in _SCREENS.items():
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": width, "height": height}, color_scheme=scheme
                )
                said = []
                page.on("console", lambda message, said=said: said.append(message.text))
                page.on("pageerror", lambda error, said=said: said.append(str(error)))
                page.on(
                    "response",
                    lambda answer, said=said: (
                        said.append(f"{answer.status} {answer.url}")
                        if answer.status > 399
                        else None
                    ),
                )
                for path in pages:
                    page.goto(f"{address}/{path}", wait_until="networkidle")
                    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
                    missing = page.evaluate(_PICTURES_WITHOUT_PIXELS)
                    found = [*said, *(f"no pixels: {picture}" for picture in missing)]
                    if (wide := page.evaluate(_WIDTH)) > width:
                        found.append(f"{wide} pixels wide")
                    said.clear()
                    yield from (f"{path}, {name}, {scheme}: {fault}" for fault in found)
                    if pictures:
                        file = f"{'-'.join(path.with_suffix('').parts)}-{name}-{scheme}.png"
                        page.evaluate("window.scrollTo(0, 0)")
                        page.screenshot(path=pathlib.Path(pictures) / file, full_page=True)
                page.close()
        browser.close()


def main():
    """Prints the faults; the status is 1 where there is one."""
    parser = argparse.ArgumentParser(description="Looks at the built pages in a browser.")
    parser.add_argument("site", help="folder of the built pages")
    parser.add_argument("--chromium", help="path of the browser; playwright's own if left out")
    parser.add_argument("--pictures", help="folder for a picture of each page")
    given = parser.parse_args()
    found = list(faults(given.site, given.chromium, given.pictures))
    pages = len(list(pathlib.Path(given.site).rglob("*.html")))
    print("\n".join([*found, f"{pages} pages, {len(found)} faults"]))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
