"""What makes a training step fast where it runs, and changes no result but the rounding that it records."""

import ctypes
import platform
import sys
import warnings
from functools import cache

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import SGD, Optimizer

from labnn.kit.errors import check, explained
from labnn.kit.progress import say


def device_of(model: nn.Module) -> torch.device:
    """The device that holds the parameters of ``model``; the CPU for one that has none."""
    return next(model.parameters(), torch.empty(0)).device


@cache
def default_device() -> str:
    """The device type of a GPU that PyTorch can use, else "cpu"; says once of one that it cannot."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    if told and not found:
        reason = str(told[0].message).partition(" (Triggered")[0][:150]
        say(f"Видеокарта есть, но не работает ({reason}): обновите её драйвер, пока считает процессор.")
    return "cuda" if found else "cpu"


def usable_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name, by default a GPU where there is one.

    Raises ``LabError`` where it is of no use; one small computation shows it: a GPU too old for this
    PyTorch can be named, but has no kernels.
    """
    name = name or default_device()
    way_out = "укажите --device cpu или установите PyTorch с его поддержкой"
    with explained(f"Устройство «{name}» недоступно", way_out):
        torch.ones(2, device=name).sum().item()
        return torch.device(name)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; on its way from the host to a GPU nobody waits."""
    if tensor.device.type == "cpu" and device.type != "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def resident(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on a GPU where it takes half of the free memory at most; else where it is."""
    if device.type == "cpu":
        return tensor
    free = getattr(torch.get_device_module(device), "mem_get_info", lambda device: (0, 0))(device)[0]
    return tensor.to(device) if tensor.nbytes < free // 2 else tensor


def autocast(device: torch.device, name: str | None = None) -> torch.autocast:
    """Arithmetic of the precision ``name``, by default the one that ``device`` is fast at."""
    dtype = getattr(torch, name or precision(device))
    half = dtype is not torch.float32
    return torch.autocast(device.type, dtype if half else torch.bfloat16, enabled=half)


@cache
def precision(device: torch.device) -> str:
    """The fastest arithmetic that ``device`` has for training: "bfloat16" on NVIDIA since Ampere (compute
    capability 8) and on a CPU with AVX512-BF16 or AMX; "float16", which needs its gradients scaled, on Volta
    and Turing (7), as Colab's T4; else "float32".
    """
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    fast = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
    return "bfloat16" if fast else "float32"


def gradient_scaler(model: nn.Module, optimizer: Optimizer, name: str | None) -> GradScaler:
    """What scales the gradients of float16, and nothing in another precision ``name``; prepares the process
    and the ``optimizer`` for training ``model`` with it.
    """
    device = device_of(model)
    name = name or precision(device)
    check("precision", name, str, choices=("float32", "bfloat16", "float16"))
    if device.type == "cpu":
        keep_freed_memory()
    if isinstance(optimizer, SGD):  # fused, it leaves the momentum unset where the first step is skipped
        optimizer._step_supports_amp_scaling = False
    optimizer._opt_called = True  # else a schedule warns of the order where the first step is skipped
    return GradScaler(device.type, enabled=name == "float16")


@cache
def keep_freed_memory() -> None:
    """Asks glibc, for the whole process, to keep large freed blocks for the next step: taking hundreds of
    megabytes of activations anew from the system costs a third of it in page faults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def environment(device: torch.device, arithmetic: str | None = None) -> dict:
    """What the figures of a run can depend on beside the experiment; the precision is ``arithmetic``, by
    default the fastest.
    """
    processor = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "processor": processor,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": arithmetic or precision(device),
    }


def describe_device(device: torch.device) -> str:
    """Where trainings run, in a Russian line: the device, its memory or threads, its precision."""
    about = environment(device)
    name, arithmetic = about["device"], f"точность чисел {about['precision']}"
    if device.type == "cuda":
        name += f", память {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} ГБ"
    if device.type == "cpu":
        name = f"{about['processor']}, потоков: {about['threads']}"
        arithmetic += "; настоящие снимки займут на процессоре часы (QUICK = True)"
    return f"Устройство: {name}, {arithmetic}."
