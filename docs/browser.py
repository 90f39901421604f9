"""Looks at the built pages in a browser: ``python docs/browser.py SITE [--chromium PATH]``.

It opens each page on a desktop and on a phone, in both colour schemes. It prints a line for each
message on the console, each file that does not load, each picture without pixels, and each page
that is wider than the screen. It needs ``pip install playwright`` and a Chromium (``playwright
install chromium``, or the path of an installed one).
"""

import argparse
import functools
import http.server
import itertools
import pathlib
import sys
import threading

from playwright.sync_api import sync_playwright

_SCREENS = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
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


def _listen(page):
    """A list that collects messages on the console of the page, and files that do not load."""
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))

    def failed(request):
        # The browser stops what a page still loads when it leaves the page.
        if request.failure != "net::ERR_ABORTED":
            said.append(f"{request.failure} {request.url}")

    page.on("requestfailed", failed)

    def answered(answer):
        if answer.status >= 400:
            said.append(f"{answer.status} {answer.url}")

    page.on("response", answered)
    return said


def _look(page, url, said):
    """What is wrong with one page."""
    said.clear()
    page.goto(url, wait_until="networkidle")
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    yield from said
    yield from (f"no pixels: {picture}" for picture in page.evaluate(_PICTURES_WITHOUT_PIXELS))
    if (wide := page.evaluate(_WIDTH)) > page.viewport_size["width"]:
        yield f"{wide} pixels wide"


def faults(site, pages, chromium=None, pictures=None):
    """What is wrong with the pages.

    Args:
        site: folder of the built pages.
        pages: their paths in it.
        chromium: path of the browser; None for playwright's own.
        pictures: folder for a picture of each page, or None.

    Yields:
        A line for each fault.
    """
    address = _serve(site)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for screen, scheme in itertools.product(_SCREENS, ("light", "dark")):
            page = browser.new_page(viewport=_SCREENS[screen], color_scheme=scheme)
            said = _listen(page)
            for path in pages:
                for fault in _look(page, f"{address}/{path}", said):
                    yield f"{path}, {screen}, {scheme}: {fault}"
                if pictures:
                    file = f"{'-'.join(path.with_suffix('').parts)}-{screen}-{scheme}.png"
                    page.evaluate("window.scrollTo(0, 0)")
                    page.screenshot(path=pathlib.Path(pictures) / file, full_page=True)
            page.close()
        browser.close()


def main():
    """Prints the faults; the status is 1 if there is one."""
    parser = argparse.ArgumentParser(description="Looks at the built pages in a browser.")
    parser.add_argument("site", help="folder of the built pages")
    parser.add_argument("--chromium", help="path of the browser; playwright's own if left out")
    parser.add_argument("--pictures", help="folder for a picture of each page")
    given = parser.parse_args()
    site = pathlib.Path(given.site)
    pages = [path.relative_to(site) for path in sorted(site.rglob("*.html"))]
    found = list(faults(site, pages, given.chromium, given.pictures))
    print("\n".join([*found, f"{len(pages)} pages, {len(found)} faults"]))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
