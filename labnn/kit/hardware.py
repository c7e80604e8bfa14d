"""What makes a training step fast where it runs, and changes no result but the rounding that it records."""

import copy
import ctypes
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn

from labnn.kit.errors import LabError
from labnn.kit.messages import memory_errors

# Where a copy between pinned memory and the device goes on while the host works. Not on mps: there it may
# read memory that is freed already (pytorch/pytorch#189690).
ASYNCHRONOUS = {"cuda"}

# Apple's GPU has no float64.
WITHOUT_FLOAT64 = {"mps"}


def device_of(model: nn.Module) -> torch.device:
    """The device that holds the parameters of ``model``."""
    return next(model.parameters()).device


def prepare(model: nn.Module) -> torch.device:
    """Makes ``model`` and the process fast where the model lies, and gives that device."""
    device = device_of(model)
    if device.type == "cpu":
        keep_freed_memory()
    model.to(memory_format=torch.channels_last)
    return device


def sum_dtype(device: torch.device) -> torch.dtype:
    """The kind of number to sum in on ``device``: float64 where it has it."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def sent(
    tensor: torch.Tensor, device: torch.device, memory_format: torch.memory_format = torch.preserve_format
) -> torch.Tensor:
    """``tensor`` on ``device``; on its way from the host to a GPU nobody waits."""
    asynchronous = tensor.device.type == "cpu" and device.type in ASYNCHRONOUS
    tensor = tensor.pin_memory() if asynchronous else tensor
    return tensor.to(device, non_blocking=asynchronous, memory_format=memory_format)


def on_host(state: Any, device: torch.device) -> Any:
    """A ``state_dict``, or dicts and lists of such, with its tensors on the host; ``device`` is waited for
    once.
    """
    asynchronous = device.type in ASYNCHRONOUS
    moved = _moved_to_host(state, asynchronous)
    if asynchronous:
        torch.get_device_module(device).synchronize(device)
    return moved


def _moved_to_host(state: Any, asynchronous: bool) -> Any:
    if isinstance(state, torch.Tensor):
        return state.to("cpu", non_blocking=asynchronous)
    if isinstance(state, dict):
        moved = copy.copy(state)  # with the versions that PyTorch notes on a ``state_dict``
        moved.update((name, _moved_to_host(part, asynchronous)) for name, part in state.items())
        return moved
    return [_moved_to_host(part, asynchronous) for part in state] if isinstance(state, list) else state


def autocast(device: torch.device, name: str | None = None) -> torch.autocast:
    """Arithmetic of the precision ``name``, by default the one that ``device`` is fast at; float32 changes
    nothing.
    """
    dtype = getattr(torch, name or precision(device))
    half = dtype is not torch.float32
    return torch.autocast(device.type, dtype if half else torch.bfloat16, enabled=half)


@cache
def precision(device: torch.device) -> str:
    """The name of the fastest arithmetic that ``device`` has for training, chosen for that device.

    "bfloat16": NVIDIA since Ampere (compute capability 8), a CPU with AVX512-BF16 or AMX; "float16", which
    needs its gradients scaled: Volta and Turing (7), as Colab's T4; else "float32". A CPU without bf16
    instructions would emulate them, slower than float32.
    """
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return "bfloat16" if major >= 8 else "float16" if major == 7 else "float32"
    fast = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
    return "bfloat16" if fast else "float32"


@cache
def keep_freed_memory() -> None:
    """Asks glibc to keep large freed blocks for the next step instead of returning them to the system.

    Every training step frees and takes again hundreds of megabytes of activations; the page faults of that
    cost a third of the step. A process-wide setting; on other systems nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def usable_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name, by default a GPU where there is one. Raises ``LabError`` where it is of no
    use.

    One small computation shows it: a GPU too old for this PyTorch can be named, but has no kernels.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        with memory_errors():  # a GPU that others fill
            if (torch.ones(2, device=device) + 1).sum().item() != 4:
                raise RuntimeError
        return device
    except (RuntimeError, AssertionError, TypeError, ImportError):  # the last: its part of PyTorch is absent
        way_out = "укажите --device cpu или установите PyTorch с его поддержкой"
        raise LabError(f"Устройство «{name or 'cuda'}» недоступно: {way_out}.") from None


@contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """PyTorch computes with ``count`` threads of the CPU inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fastest_threads(model: nn.Module, images: torch.Tensor, seconds: float = 1.0) -> int:
    """How many threads train ``model`` on a batch like ``images`` fastest just now: one, or as many as
    PyTorch has.

    Every parallel region waits for its slowest thread, so that on cores that others use all threads together
    may be twenty times slower than one. Takes about ``seconds`` for each number, or two steps of at most 32
    images; a copy of ``model`` is trained, all threads must win by a tenth.
    """
    most, rates = torch.get_num_threads(), {}
    if most == 1 or device_of(model).type != "cpu":
        return most
    model, images = copy.deepcopy(model).train(), images[:32]
    if len(images) == 1:
        images = images.repeat(2, 1, 1, 1)  # batch norm needs a spread
    with torch.random.fork_rng(devices=[]):
        for count in (1, most):
            with limited_threads(count):
                rates[count] = _steps_per_second(model, images, seconds)
    return most if rates[most] > 1.1 * rates[1] else 1


def _steps_per_second(model: nn.Module, images: torch.Tensor, seconds: float) -> float:
    begin = time.perf_counter()
    times = [begin]
    while times[-1] < begin + seconds:
        with autocast(images.device):
            loss = model(images).float().square().mean()
        loss.backward()
        times.append(time.perf_counter())
    if len(times) > 2:
        del times[0]  # the first step warms up, but may have taken all the time
    return (len(times) - 1) / (times[-1] - times[0])


def describe_device(device: torch.device) -> str:
    """Where trainings run, in a Russian line: the device, its memory or threads, its precision."""
    about = environment(device)
    if device.type == "cuda":
        gigabytes = torch.cuda.get_device_properties(device).total_memory / 2**30
        return (
            f"Устройство: {about['device']}, память {gigabytes:.0f} ГБ, точность чисел {about['precision']}."
        )
    threads = f"потоков: {about['threads']}, точность чисел {about['precision']}"
    hours = "настоящие снимки займут часы (QUICK = True)"
    return f"Устройство: {about['processor']} без видеокарты, {threads}; {hours}."


def environment(device: torch.device) -> dict:
    """What the figures of a run can depend on beside the experiment: versions, processor, device, threads,
    precision.
    """
    capabilities = torch.cpu.get_capabilities()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": capabilities.get("cpu_name") or platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": precision(device),
    }
