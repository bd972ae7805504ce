"""`python -m testing.impatient_api`: an API process that waits less long for clients that have vanished.

`UNACKNOWLEDGED_MS` says for how long a client may leave bytes unacknowledged.
"""

import os
import sys

from api import __main__ as api
from api import listener
from core import service

if __name__ == "__main__":
    listener.UNACKNOWLEDGED_MS = int(os.environ.pop("UNACKNOWLEDGED_MS"))
    sys.exit(service.run("api", api.work, dict(os.environ)))
