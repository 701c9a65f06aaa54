"""`edgevit devices clean`: remove what edgevit keeps on a target."""

from __future__ import annotations

from collections.abc import Callable

from edgevit.targets.connection import connected
from edgevit.targets.named import NamedTarget
from edgevit.targets.uploads import clean


def clean_device(target: NamedTarget, say: Callable[[str], None]) -> int:
    """Remove edgevit's files on a target: models, images, packages and results. Gives their bytes.

    Other users who measure there are waited for.

    Args:
        say: is told who is waited for.

    Raises:
        TargetError: the target cannot be reached, or another user measured all the time.
    """
    with connected(target, say) as connection, connection.locked():
        return connection.call(clean)
