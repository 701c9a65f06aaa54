"""Reach a target: start its agent, here or over SSH, and end it."""

from __future__ import annotations

import getpass
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edgevit.configs.targets import SshTarget
from edgevit.errors import MissingDependency, TargetError
from edgevit.targets.agent_session import BOOTSTRAP, AgentSession, agent_session
from edgevit.targets.channel import Channel
from edgevit.targets.named import NamedTarget
from edgevit.targets.ssh.command import ENVIRONMENT, control_socket, python_command, ssh_command
from edgevit.targets.ssh.failures import failure


@contextmanager
def reached(target: NamedTarget) -> Iterator[AgentSession]:
    """The agent of a target, which ends with the block.

    Raises:
        TargetError: the target cannot be reached, or has no fitting Python.
        MissingDependency: there is no `ssh` on this machine.
    """
    if target.config is None:
        with _local_agent(target.name) as session:
            yield session
    else:
        with _remote_agent(target.name, target.config) as session:
            yield session


def this_client() -> str:
    """Who asks, for others who wait: user@machine."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return socket.gethostname()


@contextmanager
def _local_agent(name: str) -> Iterator[AgentSession]:
    channel = Channel([sys.executable, "-c", BOOTSTRAP], name)
    work_folder = SshTarget.model_fields["work_folder"].default

    def explain(status: int, stderr: str) -> TargetError:
        return TargetError("the agent has ended", where=name, got=stderr.strip()[-200:] or f"exit status {status}")

    with agent_session(channel, name, sys.executable, work_folder, explain) as session:
        yield session


@contextmanager
def _remote_agent(name: str, config: SshTarget) -> Iterator[AgentSession]:
    with control_socket(config) as shared:
        command = ssh_command(config, shared, python_command(config.python, BOOTSTRAP))
        try:
            channel = Channel(command, name, ENVIRONMENT)
        except FileNotFoundError:
            next_step = "install OpenSSH's client, such as apt-get install openssh-client"
            raise MissingDependency("there is no ssh on this machine", where=name, next=next_step) from None

        def explain(status: int, stderr: str) -> TargetError:
            return failure(name, config, status, stderr)

        with agent_session(channel, name, config.python, config.work_folder, explain) as session:
            yield session
