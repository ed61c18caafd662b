"""podrl's own configs, as the package `podrl.configs`: here the folder `configs/` of a clone.

A wheel has that folder in this file's place.
"""

from podrl.config.user_modules import CONFIGS

__path__ = [str(CONFIGS)]
