"""`python -m engine`: the engine service."""

import os
import sys

from engine import life, matcher

if __name__ == "__main__":
    sys.exit(life.run("engine", matcher.work, dict(os.environ)))
