"""The build hook of the wheel: it builds the docs, so that every way to install tcgx has them at /docs."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parents[1]


class DocsHook(BuildHookInterface[Any]):
    """Builds api/site before the files of a wheel are gathered, an editable one included."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        """Builds the site. Without the generator, or with pages left out, a site that was built before is taken."""
        if find_spec("zensical") is None or not (ROOT / "mkdocs.yml").is_file():
            self.app.display_warning("the docs are not built: there is no zensical, or no docs")
            return
        sys.path.insert(0, str(ROOT))
        try:
            from docs_site.build import build  # noqa: PLC0415 - it is importable from here on
        finally:
            sys.path.remove(str(ROOT))
        build()
