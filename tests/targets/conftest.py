"""The SSH server that tests of targets share: one for each module."""

from collections.abc import Iterator

import pytest

from tests.targets.ssh_host import SshHost, ssh_host


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with ssh_host(tmp_path_factory.mktemp("ssh")) as running:
        yield running
