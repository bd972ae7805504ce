"""`python -m docs_site [FOLDER]` builds the site; `--check` builds it strictly and keeps nothing."""

import sys
import tempfile
from pathlib import Path

from docs_site.build import SITE, BuildError, build


def main(arguments: list[str]) -> int:
    """Builds as the arguments say. Returns the exit code."""
    try:
        if arguments == ["--check"]:
            with tempfile.TemporaryDirectory() as made:
                print(f"docs: {build(Path(made) / 'site')} files, every link leads somewhere")
        else:
            target = Path(arguments[0]) if arguments else SITE
            print(f"docs: {build(target)} files in {target}")
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
