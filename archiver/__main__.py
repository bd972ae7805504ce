"""`python -m archiver`: the archiver service."""

import os
import sys

from archiver import archiver
from engine import life

if __name__ == "__main__":
    sys.exit(life.run("archiver", archiver.work, dict(os.environ)))
