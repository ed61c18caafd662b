"""Writes parameters to one file that other programs read: `.npz` (NumPy) or `.safetensors`.

A whole policy, `.stablehlo`, is written by `podrl.api.stablehlo`.
"""

from collections.abc import Mapping
import importlib.util
import io
import zipfile

from etils import epath
import numpy as np

from podrl.config.config import check
from podrl.config.extras import install_command

POLICY_SUFFIX = ".stablehlo"
EXPORT_SUFFIXES = (".npz", ".safetensors", POLICY_SUFFIX)


def check_target(path: epath.Path) -> None:
    """Raises `ConfigError` if parameters or a policy cannot be written to `path`, as far as is known beforehand."""
    known = ", ".join(EXPORT_SUFFIXES[:-1]) + f" or {EXPORT_SUFFIXES[-1]}"
    check(path.suffix in EXPORT_SUFFIXES, f"--export={path} ends in {path.suffix or 'nothing'!r}; expected {known}.")
    check(
        path.suffix != ".safetensors" or importlib.util.find_spec("safetensors") is not None,
        f"--export={path} needs the package safetensors: pip install safetensors, or {install_command('export')}. "
        "--export=FILE.npz needs none.",
    )
    check(
        path.suffix != POLICY_SUFFIX or importlib.util.find_spec("flatbuffers") is not None,
        f"--export={path} needs the package flatbuffers: pip install flatbuffers, or {install_command('export')}.",
    )
    check(path.parent.is_dir(), f"--export={path}: there is no folder {path.parent}. Make it, or name another.")
    check(not path.exists(), f"--export={path} is there already. Name another file, or remove it.")


def write_params(path: epath.Path, params: Mapping[str, np.ndarray]) -> None:
    """Writes parameters, by their flat paths, completely or not at all.

    Args:
        path: the file; its suffix chooses the format.
        params: arrays by paths such as `encoder/Dense_0/kernel`. Safetensors supports bfloat16. NumPy's format does
            not: there it is stored as its bits in uint16, as `encoder/Dense_0/kernel.bfloat16`, and likewise for the
            other types of `ml_dtypes`; `array.view(ml_dtypes.bfloat16)` restores it.

    Raises:
        ConfigError: if the file cannot be written.
    """
    write_whole(path, encode_npz(params) if path.suffix == ".npz" else encode_safetensors(params))


def write_whole(path: epath.Path, encoded: bytes) -> None:
    """Writes a file completely or not at all.

    Raises:
        ConfigError: if it cannot be written.
    """
    written = path.with_name(path.name + ".tmp")
    try:
        written.write_bytes(encoded)
        written.replace(path)
    except OSError as error:
        written.unlink(missing_ok=True)
        check(False, f"--export={path} cannot be written ({error.strerror or error}). Name another file.")


def encode_npz(params: Mapping[str, np.ndarray]) -> bytes:
    """Encodes parameters as `numpy.savez` does, whose keyword arguments do not allow every name."""
    encoded = io.BytesIO()
    with zipfile.ZipFile(encoded, "w") as archive:
        for name, array in (_as_numpy_type(path, array) for path, array in params.items()):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return encoded.getvalue()


def encode_safetensors(params: Mapping[str, np.ndarray]) -> bytes:
    """Encodes parameters as safetensors does, which needs memory without gaps."""
    import safetensors.numpy  # An optional dependency.

    return safetensors.numpy.save({path: np.array(array, order="C") for path, array in params.items()})


def _as_numpy_type(path: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Returns an array of a type that NumPy lacks as unsigned integers, with the type's name at the end of its path."""
    if array.dtype.isbuiltin == 1:
        return path, array
    return f"{path}.{array.dtype.name}", np.array(array, order="C").view(f"u{array.dtype.itemsize}")
