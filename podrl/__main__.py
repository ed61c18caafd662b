"""What `python -m podrl` answers."""

import sys

from podrl.runtime.tool import refuse_module

sys.exit(refuse_module("podrl", "tools/tpu_launch.py --config configs/impala_catch.py"))
