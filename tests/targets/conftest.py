"""What tests of targets share: an SSH server for each module, and a Python for another processor."""

from collections.abc import Iterator

import pytest

from tests.targets.arm64 import python_for_arm64
from tests.targets.ssh_host import SshHost, ssh_host


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with ssh_host(tmp_path_factory.mktemp("ssh")) as running:
        yield running


@pytest.fixture(scope="session")
def arm64_python(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    return python_for_arm64(tmp_path_factory.mktemp("arm64") / "root")
