"""Where to compute, how precisely, and with which memory."""

import contextlib
import ctypes
import platform
from collections.abc import Iterator

import torch

from data.files import InputError


def list_devices() -> list[str]:
    """Return the names that the setting `device` may have on this machine."""
    names = ["auto", "cpu"]
    if torch.cuda.is_available():
        names.append("cuda")
        names.extend(f"cuda:{number}" for number in range(torch.cuda.device_count()))
    # not torch.backends.mps: a function that names it cannot be sent to a cluster
    if torch.mps.device_count() > 0:
        names.append("mps")
    return names


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" takes CUDA, then Apple's mps, then the CPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.mps.device_count() > 0:
        return torch.device("mps")
    return torch.device("cpu")


def move_to(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """Move a model to the device of a name, in place; return it."""
    device = choose_device(name)
    if device.type == "mps":
        # channels last is not known to work there
        model.to(memory_format=torch.contiguous_format)
    return model.to(device)


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return the lowest precision that a device computes fast and that trains well."""
    if device.type == "cuda":
        # older GPUs, such as the T4 of free Colab, only emulate bfloat16
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16
        return torch.float16
    if device.type != "cpu":
        # of mps nothing else is known to train well
        return torch.float32
    # older versions of torch cannot tell
    get_capabilities = getattr(torch.cpu, "get_capabilities", dict)
    features = get_capabilities()
    # other CPUs emulate bfloat16, which is slower than float32
    if features.get("avx512_bf16") or features.get("amx_bf16"):
        return torch.bfloat16
    return torch.float32


def name_precision(device: torch.device) -> str:
    """Return the name of `fast_dtype`, such as "bfloat16"."""
    return str(fast_dtype(device)).removeprefix("torch.")


def autocast(device: torch.device) -> torch.autocast:
    """Return a context in which networks compute in `fast_dtype`; their weights stay float32."""
    dtype = fast_dtype(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@contextlib.contextmanager
def memory_for_training(image_size: int) -> Iterator[None]:
    """Keep the memory of one step for the next.

    Raises:
        InputError: there is too little memory, on a GPU or here.
    """
    keep_memory()
    try:
        yield
    except RuntimeError as error:
        # torch raises several kinds, with these words in all of them
        if "out of memory" in str(error) or "allocate memory" in str(error):
            cure = f"lower batch_size or image_size ({image_size})"
            raise InputError(f"no memory: {cure}") from error
        raise


def keep_memory() -> None:
    """Have this process keep the memory that it frees, on Linux with glibc.

    Training frees as much at every step as it then asks for again, page by page: 2.60 → 2.41 s a
    step of ResNet-50 on two cores.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    # M_MMAP_MAX: large blocks come from the heap as well
    libc.mallopt(-4, 0)
    # M_TRIM_THRESHOLD: and the heap never shrinks
    libc.mallopt(-1, 2**31 - 1)
