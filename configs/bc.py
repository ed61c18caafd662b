"""Behavioural cloning of a data set of Hopper: `--config.data.path=FOLDER` of one that `tools/record.py` made."""

import ml_collections

from podrl.configs import common


def get_config() -> ml_collections.ConfigDict:
    return common.make_offline_control_config("bc", agent="bc")
