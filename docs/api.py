"""Write the API reference from the docstrings: ``make api``, or ``python docs/api.py [FOLDER]``.

What is documented is what programs may rely on: the public names of ``pipeline`` and ``models``,
and the messages and the summary that those hand out.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pdoc
import pdoc.render

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pipeline", "models")
MODULES = (*PACKAGES, "pipeline.messages", "pipeline.outputs.summary")


def write(folder: Path) -> None:
    """Write HTML pages that need no network, ``index.html`` first."""
    for name in PACKAGES:
        package = importlib.import_module(name)
        for (
            each
        ) in package.__all__:  # looked up on first use, and pdoc looks only for what is there
            setattr(package, each, getattr(package, each))
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "api"
    write(target)
    print(f"open {target / 'index.html'}")
