"""Turns each notebook into a page, with what it printed and drew when it was last run.

MkDocs calls ``on_files``; the pages exist only while it builds.
"""

import base64
import json
import pathlib
import re
from typing import Any

_FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"


def on_files(files: Any, config: Any) -> Any:
    """Adds a page for each notebook, and its pictures."""
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]

    for path in sorted(_FOLDER.glob("*.ipynb")):
        text, pictures = page(json.loads(path.read_text("utf-8")), path.stem)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def page(notebook: dict[str, Any], stem: str) -> tuple[str, dict[str, bytes]]:
    """Markdown of a notebook, and its pictures as bytes by their names."""
    parts = ["---\nhide: [toc]\n---"]  # wide, because its code and tables are
    pictures: dict[str, bytes] = {}
    heading = ""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = (re.findall(r"^#+ (.*)$", source, re.MULTILINE) or [heading])[-1]
            parts.append(re.sub(r"\((\w+)\.ipynb\)", r"(\1.md)", source))
            continue
        # Commands of Jupyter are not Python, and a page does not need them.
        code = re.sub(r"^%.*\n", "", source, flags=re.MULTILINE)
        parts.append(f"```python\n{code}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}_{len(pictures)}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                width = output["metadata"].get("image/png", {}).get("width", 600)
                parts.append(f"![Picture: {heading}]({name}){{ width={width} }}")
            else:
                printed = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures
