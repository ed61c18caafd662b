"""The id of a run, which it has for life: made at its first start, kept over resumes, and moved with its folder.

It is in every manifest, also in those of checkpoints. `--start_anew` deletes the manifests, so what begins then is
another run.
"""

import hashlib
import json
import secrets

from etils import epath

from podrl.runs.records import read_manifests


def make_run_id() -> str:
    """Returns the id of a new run: 12 hexadecimal digits."""
    return secrets.token_hex(6)


def find_run_id(folder: epath.Path) -> str | None:
    """Returns the id of the run in a folder; None if none has begun there.

    A run that was begun before there were ids has a digest of its first manifest, which stays the same.

    Raises:
        ConfigError: If a manifest is broken.
    """
    manifests = read_manifests(folder)
    if not manifests:
        return None
    known = [each["run_id"] for each in manifests if "run_id" in each]
    return known[0] if known else hashlib.sha256(json.dumps(manifests[0], sort_keys=True).encode()).hexdigest()[:12]
