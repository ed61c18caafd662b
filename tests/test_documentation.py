"""What docs/environments.md shows works as it stands there."""

import re
import shlex

from tests.processes import ROOT, launch, read_rows

PAGE = (ROOT / "docs/environments.md").read_text()


def test_the_environment_of_your_own_trains(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (command,) = re.findall(r"^python tools/tpu_launch.py (.*my_env:.*)$", PAGE, re.M)
    (tmp_path / "my_env.py").write_text(program)
    arguments = [word.replace("configs/", f"{ROOT}/configs/") for word in shlex.split(command)]
    result = launch(*arguments, "--smoke", "--workdir", "run", cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    assert read_rows(tmp_path / "run")[-1]["learner_steps"] == 6

    (mistake,) = re.findall(r"^(podrl: error: .*my_env.*)$", PAGE, re.M)
    misspelt = [word.replace("options.outside", "options.outsid") for word in arguments]
    assert launch(*misspelt, "--smoke", cwd=tmp_path).stderr.strip() == mistake
