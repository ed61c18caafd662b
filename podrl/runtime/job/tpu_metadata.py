"""The metadata server of a Cloud TPU machine, which is asked only on machines with TPUs.

The server is local: it is asked directly even if the environment names a proxy, which would answer for itself.
"""

from email.message import Message
import http.client
import os
from pathlib import Path
import time
import urllib.error
import urllib.request

_GOOGLE = "0x1ae0"  # Google's number among vendors of PCI devices.
_OTHERS = ("0x01", "0x02")  # Classes of other devices: storage, network.
_LIMIT_S = 5.0
_ATTEMPTS = 3
_PAUSE_S = 0.5
_FLAVOR = ("Metadata-Flavor", "Google")  # Header that identifies the server.


class MetadataError(RuntimeError):
    """The metadata server gave no answer: this machine may be one of many, and must not train alone."""


def tpu_metadata(key: str) -> str | None:
    """Returns the value under a key of this TPU machine's metadata; None if there is none, or no TPU.

    Raises:
        MetadataError: as in `read_metadata`.
    """
    return read_metadata(key) if _has_tpu() else None


def read_metadata(key: str) -> str | None:
    """Returns the value under a key of this machine's metadata; None if the server says that there is none (HTTP 404).

    Raises:
        MetadataError: if the server gives any other answer, or none.
    """
    host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/attributes/{key}", headers=dict([_FLAVOR])
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE_S if attempt else 0)
        try:
            with direct.open(request, timeout=_LIMIT_S) as response:
                if _is_googles(response.headers):
                    return response.read().decode()
                reason = "another server answers"
                break
        except urllib.error.HTTPError as error:
            if error.code == http.client.NOT_FOUND and _is_googles(error.headers):
                return None
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < http.client.INTERNAL_SERVER_ERROR and error.code != http.client.TOO_MANY_REQUESTS:
                break
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
            reason = str(error) or type(error).__name__
    raise MetadataError(
        f"This machine has a TPU, but its metadata server {host} does not say under {key} whether it is part of a pod "
        f"({reason}). Give the same command again; if it is not part of one, add --alone; otherwise give "
        "--coordinator, --process_count and --process_index."
    )


def _is_googles(headers: Message) -> bool:
    return bool(headers.get(_FLAVOR[0]) == _FLAVOR[1])


def _has_tpu() -> bool:
    """Returns whether a TPU is attached; Google's disks and network cards do not count."""
    for vendor in Path("/sys/bus/pci/devices").glob("*/vendor"):
        try:
            if vendor.read_text().strip() == _GOOGLE and vendor.with_name("class").read_text()[:4] not in _OTHERS:
                return True
        except OSError:
            continue
    return False
