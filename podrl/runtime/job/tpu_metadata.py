"""What a Cloud TPU machine's metadata server says. Nothing is asked on machines without TPUs.

The server is next door: it is asked directly, also where the environment names a proxy, which would answer for itself.
"""

from email.message import Message
import http.client
import os
from pathlib import Path
import time
import urllib.error
import urllib.request

_GOOGLE = "0x1ae0"  # Its number among makers of PCI devices.
_OTHERS = ("0x01", "0x02")  # Kinds of device: storage, network.
_LIMIT_S = 5.0
_ATTEMPTS = 3
_PAUSE_S = 0.5
_FLAVOR = ("Metadata-Flavor", "Google")  # Of the request and of the server's answers, by which others can be told.


class MetadataError(RuntimeError):
    """What the metadata server would say is not known: this machine may be one of many, and must not train alone."""


def tpu_metadata(key: str) -> str | None:
    """The value under a key of this TPU machine's metadata; None if there is none, or no TPU.

    Raises:
        MetadataError: as `read_metadata` does.
    """
    return read_metadata(key) if _has_tpu() else None


def read_metadata(key: str) -> str | None:
    """The value under a key of this machine's metadata; None if the server itself says that there is none (HTTP 404).

    Raises:
        MetadataError: if the server says anything else, or nothing.
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
    """Whether a TPU is attached; Google's disks and network cards are none."""
    for vendor in Path("/sys/bus/pci/devices").glob("*/vendor"):
        try:
            if vendor.read_text().strip() == _GOOGLE and vendor.with_name("class").read_text()[:4] not in _OTHERS:
                return True
        except OSError:
            continue
    return False
