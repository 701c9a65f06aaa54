"""Reach a target: start its agent, here or over SSH, and end it."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from edgevit.configs.targets import MachineTarget
from edgevit.errors import MissingDependency, TargetError
from edgevit.targets.agent_session import BOOTSTRAP, AgentSession, agent_session
from edgevit.targets.channel import Channel
from edgevit.targets.named import NamedTarget
from edgevit.targets.ssh.command import ENVIRONMENT, control_socket, python_command, ssh_command
from edgevit.targets.ssh.failures import failure
from edgevit.targets.target_python import no_python, python_has_ended, python_words


@contextmanager
def reached(target: NamedTarget) -> Iterator[AgentSession]:
    """The agent of a target, which ends with the block.

    Raises:
        TargetError: the target cannot be reached, or has no fitting Python.
        MissingDependency: there is no `ssh` on this machine.
    """
    machine = target.machine
    with (_agent_here if machine.is_here else _agent_over_ssh)(target.name, machine) as session:
        yield session


def this_client() -> str:
    """Who asks, for others who wait: user@machine."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):
        return socket.gethostname()


@contextmanager
def _agent_here(name: str, config: MachineTarget) -> Iterator[AgentSession]:
    """The agent as a child of this process, which speaks with it through pipes.

    No line can drop: the agent's input ends only with this process, and then its jobs are stopped at once.
    """
    try:
        channel = Channel([*map(os.path.expanduser, python_words(config.python)), "-c", BOOTSTRAP], name)
    except OSError as error:
        raise no_python(name, config, error.strerror or str(error)) from None

    def explain(status: int, stderr: str) -> TargetError:
        return python_has_ended(name, status, stderr, f"{config.python} --version")

    with agent_session(channel, name, config.python, config.work_folder, explain, orphan_s=0) as session:
        yield session


@contextmanager
def _agent_over_ssh(name: str, config: MachineTarget) -> Iterator[AgentSession]:
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
