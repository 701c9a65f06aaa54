"""The target that a stage or a command names."""

from __future__ import annotations

from edgevit.artifacts import Json
from edgevit.configs.targets import LOCAL_CPU, LOCAL_GPU
from edgevit.context import Context
from edgevit.targets.agent_host import AgentHost
from edgevit.targets.base import Target
from edgevit.targets.local import LocalCpu, LocalGpu
from edgevit.targets.named import named_target


def target_for(name: str, context: Context) -> Target:
    """The target with this name: built in, of the user's targets.yaml, or of the project's.

    Raises:
        TargetError: there is no such target; the error has the nearest name.
        RecipeError: a targets.yaml is not valid.
    """
    if name == LOCAL_CPU:
        return LocalCpu()
    if name == LOCAL_GPU:
        return LocalGpu(context.progress.say)
    return AgentHost(named_target(name, context.folder), context.progress.say)


def target_info(name: str, runtime: str, context: Context) -> Json:
    """A target's fingerprint for one runtime, for store keys. It is equal at every call.

    Raises TargetError if the runtime does not run on the target.
    """
    return target_for(name, context).describe(runtime).model_dump(mode="json")
