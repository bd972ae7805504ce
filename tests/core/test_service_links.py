"""Variables that Kubernetes puts into pods are no settings."""

import pytest

from core import service_links
from core.errors import SettingError
from core.settings import Settings, read


def links(service: str, port: int = 6379, *, named: str = "", protocol: str = "tcp") -> dict[str, str]:
    """What Kubernetes puts into every pod of a namespace for a Service, as the kubelet makes it."""
    address, kind = f"{protocol}://10.96.0.7:{port}", protocol.upper()
    return {
        f"{service}_SERVICE_HOST": "10.96.0.7",
        f"{service}_SERVICE_PORT": str(port),
        f"{service}_PORT": address,
        f"{service}_PORT_{port}_{kind}": address,
        f"{service}_PORT_{port}_{kind}_PROTO": protocol,
        f"{service}_PORT_{port}_{kind}_PORT": str(port),
        f"{service}_PORT_{port}_{kind}_ADDR": "10.96.0.7",
    } | ({f"{service}_SERVICE_PORT_{named}": str(port)} if named else {})


@pytest.mark.parametrize("service", ["TCGX", "TCGX_REDIS", "TCGX_API", "TCGX_POSTGRES_HEADLESS", "TCGX_PORT", "TCGX_2"])
@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
def test_a_pod_starts_beside_a_service_of_any_name(service: str, protocol: str) -> None:
    assert read(links(service, named="HTTP_API", protocol=protocol)) == Settings()


def test_settings_beside_service_links_are_read() -> None:
    given = links("TCGX_REDIS") | links("TCGX", 8000) | {"TCGX_REDIS_URL": "redis://tcgx-redis:6379/0"}

    assert read(given | {"TCGX_PORT": "8001"}).port == 8001
    assert read(given).redis_url == "redis://tcgx-redis:6379/0"


def test_an_ipv6_address_is_a_service_link() -> None:
    assert read({"TCGX_PORT": "tcp://[fd00::7]:8000", "TCGX_SERVICE_HOST": "fd00::7"}) == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("TCGX_REDIS_PORT", "6379"),
        ("TCGX_REDIS_PORT", "redis://10.96.0.7:6379"),
        ("TCGX_REDIS_PORTS", "tcp://10.96.0.7:6379"),
        ("TCGX_SERVICE_HOST", "10.96.0.7"),
        ("TCGX_API_SERVICE_PORT", "8000"),
    ],
)
def test_a_variable_that_is_no_link_is_still_refused(name: str, text: str) -> None:
    with pytest.raises(SettingError, match=f"{name} is not a setting"):
        read({name: text})


def test_a_link_of_another_service_hides_no_typo() -> None:
    with pytest.raises(SettingError, match="TCGX_REDIS_URI is not a setting"):
        read(links("TCGX_REDIS") | {"TCGX_REDIS_URI": "redis://10.96.0.7:6379"})


def test_other_variables_stay() -> None:
    given = {"PATH": "/bin", "TCGX_PORT": "8000", "TCGX_API_WORKERS": "2"}

    assert service_links.without(given | links("TCGX_REDIS")) == given
