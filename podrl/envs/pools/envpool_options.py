"""Options of EnvPool's environments, checked before EnvPool sees them: an invalid one can abort the process."""

from collections.abc import Mapping
from typing import Any

from podrl.config.config import EnvConfig, check, check_not_a_setting, did_you_mean
from podrl.envs.options import checked_option

NO_LIMIT = 2**31 - 1

# Options that podrl sets itself, or that would mislead, with the reason.
_OWNED = {
    "num_envs": "it follows from actors.num_envs",
    "batch_size": "pools are synchronous; it follows from actors.num_envs",
    "num_threads": "set actors.env_threads",
    "max_num_players": "podrl trains one player",
    "thread_affinity_offset": "several pools would be pinned to the same cores",
    "base_path": "set the environment variable ENVPOOL_ASSETS_PATH",
    "seed": "it follows from the run's seed",
    "env_seed": "it follows from the run's seed",
    "gym_reset_return_info": "podrl relies on EnvPool's default",
    "stack_num": "frames are stacked on the device; set network.frame_stack",
    "frame_stack": "frames are stacked on the device; set network.frame_stack",
    "reward_clip": "rewards stay raw; agents clip them",
    "zero_discount_on_life_loss": "it changes nothing in the interface that podrl uses; see episodic_life",
    "task": "env.id chooses it",
    "env_name": "env.id chooses it",
    "task_name": "env.id chooses it",
    "max_episode_steps": "set env.max_episode_steps",
}

# Options by which MuJoCo draws what agents see; EnvPool lists the last three only with the first.
_DRAWN = {"from_pixels": False, "render_width": 84, "render_height": 84, "render_camera_id": -1}


def is_emulator(defaults: Mapping[str, Any]) -> bool:
    """Returns whether steps are frames of a screen, several of which an action may take.

    MuJoCo's physics has a `frame_skip` too, its simulation steps per action, which are not counted. `defaults` are the
    environment's options.
    """
    return "frame_skip" in defaults and "img_height" in defaults


def is_simulation(defaults: Mapping[str, Any]) -> bool:
    """Returns whether steps are MuJoCo's physics; `defaults` are the environment's options."""
    return "frame_skip" in defaults and not is_emulator(defaults)


def option_types(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that users may set, each with a value of its type; `defaults` are all of EnvPool's."""
    types = {name: value for name, value in defaults.items() if name not in _OWNED}
    if is_simulation(defaults):
        return types | _DRAWN
    return types | ({"max_episode_frames": 0} if is_emulator(defaults) else {})


def check_options(config: EnvConfig, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `config.options` by EnvPool's names and types, with podrl's own additions.

    Args:
        config: config that names the environment.
        defaults: all options that EnvPool has for it.

    Raises:
        ConfigError: on an option that is unknown, has another type, or is podrl's to set.
    """
    types = option_types(defaults)
    options = {}
    for name, value in config.options.items():
        if name not in types:
            check_not_a_setting(name, config.id)
        check(name not in _OWNED, f"env.options.{name} is not yours to set: {_OWNED.get(name)}.")
        check(
            name in types,
            f"env.options.{name} is not an option of {config.id}{did_you_mean(name, types)} "
            f"Available: {', '.join(sorted(types))}.",
        )
        options[name] = checked_option(name, value, types[name])
    if "max_episode_frames" in options:
        frame_skip = options.get("frame_skip", defaults["frame_skip"])
        options["max_episode_steps"] = max(1, options.pop("max_episode_frames") // frame_skip)
    if config.max_episode_steps:
        check(
            defaults["max_episode_steps"] != NO_LIMIT,
            f"env.max_episode_steps has no effect on {config.id}: EnvPool never truncates it.",
        )
        options["max_episode_steps"] = config.max_episode_steps
    # For ViZDoom's buttons: one choice among all sensible combinations, instead of a number for each button.
    own = {"stack_num": 1, "use_combined_action": True}
    return {name: value for name, value in own.items() if name in defaults} | options
