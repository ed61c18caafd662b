"""What a Cloud TPU machine's metadata server says. Nothing is asked on machines without TPUs."""

import os
from pathlib import Path
import urllib.error
import urllib.request

from podrl.config import ConfigError

_GOOGLE = "0x1ae0"  # Its number among makers of PCI devices.
_OTHERS = ("0x01", "0x02")  # Kinds of device: storage, network.
_LIMIT_S = 5.0  # The server is next door.


def tpu_metadata(key: str) -> str | None:
    """The value under a key of this TPU machine's metadata; None if there is none, or no TPU.

    Raises:
        ConfigError: if there is a TPU, but nobody answers: it may be one of many of a pod, and must not go on alone.
    """
    if not _has_tpu():
        return None
    host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/{key}", headers={"Metadata-Flavor": "Google"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_LIMIT_S) as response:
            return response.read().decode()
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        raise ConfigError(
            f"This machine has a TPU, but its metadata server {host} does not answer ({error}), so whether it is part "
            "of a pod is not known. Set TPU_SKIP_MDS_QUERY=1 if it is not; otherwise give --coordinator, "
            "--process_count and --process_index."
        ) from None


def _has_tpu() -> bool:
    """Whether a TPU is attached; Google's disks and network cards are none."""
    for vendor in Path("/sys/bus/pci/devices").glob("*/vendor"):
        try:
            if vendor.read_text().strip() == _GOOGLE and vendor.with_name("class").read_text()[:4] not in _OTHERS:
                return True
        except OSError:
            continue
    return False
