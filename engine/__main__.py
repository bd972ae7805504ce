"""`python -m engine`: the engine service."""

import os
import sys

from core import service
from engine import matcher

if __name__ == "__main__":
    sys.exit(service.run("engine", matcher.work, dict(os.environ)))
