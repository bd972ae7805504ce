"""Variables that Kubernetes and Docker put into containers: the addresses of services nearby.

A Service named `tcgx-redis` gives every pod `TCGX_REDIS_PORT=tcp://10.0.0.7:6379` and six variables more, whose names
look like settings. `enableServiceLinks: false` turns them off; a pod without it must start as well.
"""

import re
from collections.abc import Iterator, Mapping

_ADDRESS = re.compile(r"(?:tcp|udp|sctp)://\S+:[0-9]+")
_LINK = re.compile(r"(?P<service>[A-Z][A-Z0-9_]*?)_PORT(?:_[0-9]+_(?:TCP|UDP|SCTP))?")
_NAMES = r"PORT|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?|SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
_URL_NAMES = re.compile(r"PORT(?:_[0-9]+_(?:TCP|UDP|SCTP))?")


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables of service links.

    A service is recognized by an address such as `tcp://10.0.0.7:6379` in a variable that Kubernetes would name so.
    A variable that holds an address by its name, and another text by its value, stays.
    """
    patterns = [re.compile(f"{service}_({_NAMES})") for service in {*_services(environment)}]

    def is_link(name: str, text: str) -> bool:
        found = next((match for pattern in patterns if (match := pattern.fullmatch(name))), None)
        return found is not None and (not _URL_NAMES.fullmatch(found[1]) or _ADDRESS.fullmatch(text) is not None)

    return {name: text for name, text in environment.items() if not is_link(name, text)}


def _services(environment: Mapping[str, str]) -> Iterator[str]:
    for name, text in environment.items():
        if _ADDRESS.fullmatch(text) and (found := _LINK.fullmatch(name)):
            yield found["service"]
