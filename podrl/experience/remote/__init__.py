"""Environment workers: processes, here or on other hosts, that step the environments of a learner's actors."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from podrl.experience.remote.vector_env import RemoteVectorEnv as RemoteVectorEnv


def __getattr__(name: str) -> Any:
    """Imports the one name that other programs use once it is asked for: the rest of podrl does without."""
    if name == "RemoteVectorEnv":
        from podrl.experience.remote.vector_env import RemoteVectorEnv

        return RemoteVectorEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
