"""A device that is none: PyTorch's spare backend (PrivateUse1), written in Python, stands in for a GPU.

A tensor on "gpu" holds a tensor of the host and computes by it, so that its numbers are true and autograd
runs. But, as on a real device, an operation that mixes both kinds raises, random numbers come from a
generator of the device's own, a copy that nobody waits for has arrived only after ``synchronize``, and every
wait of the host is written down. A copy from memory that is not pinned is such a wait. What this cannot show:
a kernel's own choice of memory format, autocast (no list of operations for this backend), how much fits, how
fast it is.

Importing this registers the backend for the whole process, for good.
"""

import sys
from collections import Counter

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

GPU = torch.device("privateuseone", 0)  # its name is "gpu" after the registration below

WAITS: Counter = Counter()  # of the host for the device: (what, function of labnn that asked)
FAULTS: dict[str, Exception] = {}  # what an operation of that name raises
FREE = 2**30  # bytes of its memory

_GENERATOR = torch.Generator()
_ON_THEIR_WAY: list[tuple[Tensor, Tensor]] = []
_PINNED = "is_pinned_here"


class OnDevice(Tensor):
    """A tensor on the device; ``inner`` is where it really is."""

    @staticmethod
    def __new__(cls, inner: Tensor):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return Tensor._make_wrapper_subclass(cls, inner.size(), **layout, dtype=inner.dtype, device=GPU)

    def __init__(self, inner: Tensor):
        self.inner = inner

    def numpy(self, *, force: bool = False):
        if not force:
            raise TypeError("can't convert a tensor of the device to numpy")
        _wait("numpy")
        return self.inner.detach().numpy()

    def tolist(self):
        _wait("tolist")  # one copy, as PyTorch does it
        return self.inner.tolist()

    # Having both, a network that is laid out anew gets new tensors, not new facts about its old ones.
    def __tensor_flatten__(self):
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(tensors, facts, size, stride):
        return OnDevice(tensors["inner"])

    def __reduce_ex__(self, protocol):
        raise AssertionError("a tensor of the device goes to a file")

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, call, types, args=(), kwargs=None):
        # Comes whole in inference mode.
        if torch._C._dispatch_has_kernel_for_dispatch_key(call.name(), "CompositeImplicitAutograd"):
            return call.decompose(*args, **(kwargs or {}))
        return _compute(call, args, kwargs or {})


class _Module(_DummyBackendModule):
    """``torch.gpu``."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, seed: int) -> None:
        _GENERATOR.manual_seed(seed)

    def get_rng_state(self, device: torch.device) -> Tensor:
        return _GENERATOR.get_state()

    def set_rng_state(self, state: Tensor, device: torch.device) -> None:
        _GENERATOR.set_state(state)

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return FREE, 2**30

    def synchronize(self, device: torch.device) -> None:
        _wait("synchronize")
        for arrived, sent in _ON_THEIR_WAY:
            arrived.copy_(sent)
        _ON_THEIR_WAY.clear()


def pinned(tensor: Tensor) -> Tensor:
    """In place of ``Tensor.pin_memory``, which needs a real device."""
    copy = tensor.clone()
    setattr(copy, _PINNED, True)
    return copy


def _wait(what: str) -> None:
    frame = sys._getframe(1)
    while frame and "/labnn/" not in frame.f_code.co_filename:
        frame = frame.f_back
    WAITS[what, frame.f_code.co_qualname if frame else ""] += 1


def _compute(call, args, kwargs):
    """Does ``call`` on the tensors inside and gives its results the place that they would have."""
    name = call._schema.name.split("::")[1]
    if name in FAULTS:
        raise FAULTS[name]
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [leaf for leaf in leaves if isinstance(leaf, OnDevice)]
    hosts = [leaf for leaf in leaves if not isinstance(leaf, OnDevice)]
    assert all(map(_well_laid, ours))
    goal = kwargs.get("device")
    if name == "copy_":
        to_device = isinstance(args[0], OnDevice)
        away = bool(ours) and not to_device
    else:
        to_device = goal is not None and torch.device(goal).type == GPU.type
        away = bool(ours) and name == "_to_copy" and goal is not None and not to_device
    asked = kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,))
    if name in ("copy_", "_to_copy"):
        _note_copy(away, bool(hosts) and to_device, bool(asked), hosts)
    elif ours:
        _note_mixture(name, hosts)
    plain, options = tree_map(lambda leaf: leaf.inner if isinstance(leaf, OnDevice) else leaf, (args, kwargs))
    if to_device and "device" in options:
        options = options | {"device": "cpu"}
    if options.get("pin_memory"):
        options = options | {"pin_memory": False}
    with torch._C._DisableTorchDispatch():
        own_numbers = (ours or to_device) and torch.Tag.nondeterministic_seeded in call.tags
        out = _drawn(call, plain, options) if own_numbers else call(*plain, **options)
        if away and asked:  # it will be there when somebody waits
            out = args[0] if name == "copy_" else out.clone()
            _ON_THEIR_WAY.append((out, out.clone()))
            out.zero_()
    if name == "copy_":
        return args[0]
    stays = to_device or (ours and not away)
    return tree_map(lambda leaf: _placed(leaf, ours, stays), out)


def _well_laid(tensor: OnDevice) -> bool:
    """Whether the memory inside is as the tensor says: a fused optimizer would mix up weights and gradients.

    One that was filled as ``out`` knows its size inside only.
    """
    own, inner = (
        [stride for size, stride in zip(one.shape, one.stride(), strict=True) if size > 1]
        for one in (tensor, tensor.inner)
    )
    return own == inner or tensor.shape != tensor.inner.shape


def _note_copy(away: bool, coming: bool, asked: bool, hosts: list[Tensor]) -> None:
    if away and not asked:
        _wait("device to host")
    if coming and not (asked and getattr(hosts[0], _PINNED, False)):
        _wait("host to device")


def _note_mixture(name: str, hosts: list[Tensor]) -> None:
    foreign = [tuple(leaf.shape) for leaf in hosts if leaf.dim()]
    if foreign and not name.startswith("index"):
        raise RuntimeError(
            f"Expected all tensors to be on the same device: {name} got tensors of the host {foreign}"
        )
    if foreign or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal"):
        _wait(name)


def _drawn(call, args, kwargs):
    """``call`` with random numbers of the device's generator."""
    kept = torch.get_rng_state()
    torch.set_rng_state(_GENERATOR.get_state())
    out = call(*args, **kwargs)
    _GENERATOR.set_state(torch.get_rng_state())
    torch.set_rng_state(kept)
    return out


def _placed(leaf, ours: list[OnDevice], stays: bool):
    for one in ours:  # an operation in place gives its own tensor back
        if one.inner is leaf:
            return one
    return OnDevice(leaf) if stays and isinstance(leaf, Tensor) else leaf


_setup_privateuseone_for_python_backend("gpu", backend_module=_Module())
_LIBRARY = torch.library.Library("_", "IMPL")
_LIBRARY.fallback(lambda call, *args, **kwargs: _compute(call, args, kwargs), "PrivateUse1")
