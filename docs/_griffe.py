"""Shows the ``Example:`` of a docstring as code: Google's style knows it as ``Examples:`` only."""

import re

import griffe


class Examples(griffe.Extension):
    """Renames the section before it is parsed."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = text
