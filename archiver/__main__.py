"""`python -m archiver`: the archiver service."""

import os
import sys

from archiver import archiver
from core import service

if __name__ == "__main__":
    sys.exit(service.run("archiver", archiver.work, dict(os.environ)))
