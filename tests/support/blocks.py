"""The blocks of code in a page of Markdown."""

import re


def blocks(path, language):
    """The texts of all fenced blocks of one language; of those without one for ``""``."""
    text = path.read_text(encoding="utf-8")
    fences = re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [body for name, body in fences if name == language]
