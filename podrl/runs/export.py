"""Parameters as one file that other programs read: `.npz` (NumPy) or `.safetensors`."""

from collections.abc import Mapping
import importlib.util
import io
import zipfile

from etils import epath
import numpy as np

from podrl.config.config import check

EXPORT_SUFFIXES = (".npz", ".safetensors")


def check_target(path: epath.Path) -> None:
    """Raises ConfigError unless parameters can be written to `path`, as far as can be told before."""
    known = " or ".join(EXPORT_SUFFIXES)
    check(path.suffix in EXPORT_SUFFIXES, f"--export={path} ends in {path.suffix or 'nothing'!r}; expected {known}.")
    check(
        path.suffix != ".safetensors" or importlib.util.find_spec("safetensors") is not None,
        f"--export={path} needs the package safetensors: pip install safetensors, or pip install -e '.[export]'. "
        "--export=FILE.npz needs none.",
    )
    check(path.parent.is_dir(), f"--export={path}: there is no folder {path.parent}. Make it, or name another.")
    check(not path.exists(), f"--export={path} is there already. Name another file, or remove it.")


def write_params(path: epath.Path, params: Mapping[str, np.ndarray]) -> None:
    """Writes parameters, flattened by their paths, whole or not at all.

    Args:
        path: the file; its ending says the format.
        params: by paths such as `encoder/Dense_0/kernel`. Safetensors has bfloat16 as it is. NumPy's format has not:
            there it is stored as its bits in uint16, as `encoder/Dense_0/kernel.bfloat16`, and likewise for the other
            types of `ml_dtypes`; `array.view(ml_dtypes.bfloat16)` gives it back.

    Raises:
        ConfigError: if the file cannot be written.
    """
    encoded = encode_npz(params) if path.suffix == ".npz" else encode_safetensors(params)
    written = path.with_name(path.name + ".tmp")
    try:
        written.write_bytes(encoded)
        written.replace(path)
    except OSError as error:
        written.unlink(missing_ok=True)
        check(False, f"--export={path} cannot be written ({error.strerror or error}). Name another file.")


def encode_npz(params: Mapping[str, np.ndarray]) -> bytes:
    """As `numpy.savez` writes them, whose arguments could not have every name."""
    encoded = io.BytesIO()
    with zipfile.ZipFile(encoded, "w") as archive:
        for name, array in (_as_numpy_type(path, array) for path, array in params.items()):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return encoded.getvalue()


def encode_safetensors(params: Mapping[str, np.ndarray]) -> bytes:
    """As safetensors writes them, which wants memory without gaps."""
    import safetensors.numpy  # An extra.

    return safetensors.numpy.save({path: np.array(array, order="C") for path, array in params.items()})


def _as_numpy_type(path: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """A type that NumPy does not know itself as unsigned integers of its size, with its name at the end of the path."""
    if array.dtype.isbuiltin == 1:
        return path, array
    return f"{path}.{array.dtype.name}", np.array(array, order="C").view(f"u{array.dtype.itemsize}")
