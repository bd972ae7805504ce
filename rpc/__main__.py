"""`python -m rpc`: one gRPC process."""

import os
import sys

from core import service
from rpc.server import work

if __name__ == "__main__":
    sys.exit(service.run("grpc", work, dict(os.environ)))
