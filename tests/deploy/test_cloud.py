"""The CloudFormation template on an emulator of AWS."""

from pathlib import Path

import pytest

from testing import cloud

pytestmark = pytest.mark.server


def test_a_stack_is_created_updated_and_rolled_back(tmp_path: Path) -> None:
    try:
        with cloud.emulator(tmp_path) as aws:
            seen = [*cloud.trial(aws)]
    except cloud.NoIndex as error:
        pytest.skip(str(error))

    assert [line.partition(":")[0] for line in seen] == ["created", "updated", "a planted error"]


def test_what_the_emulator_lacks_is_left_out_and_nothing_else() -> None:
    kept = cloud.emulated()["Resources"]

    assert len(kept) > 45
    assert not any(cloud.UNKNOWN_TYPES.fullmatch(one["Type"]) for one in kept.values())
    assert {"Database", "EngineService", "ArchiverService", "ApiService", "Balancer"} <= set(kept)
