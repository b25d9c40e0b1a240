"""Several devices on a machine that has one: tensors are told apart by a device in name only.

    with logical_devices():
        model.to("privateuseone:1")         # copied, and from now on of that device
        x.device                            # privateuseone:1
        x + y                               # raises where y is elsewhere, as it would between two accelerators

All numbers stay in the processor's memory, so results are exactly those of one device. A function mode of torch sees
each call of Python's: it notes by storage where a tensor is said to be, answers ``device``, sends ``to`` and ``device=``
to the place that they name, and refuses what torch refuses between devices. As in torch, a number (no dimensions) of
the host goes with anything, an index may come from the host, and ``copy_`` and a slice that is set cross devices.

What it does not see: operations inside one call, such as those of a backward pass, whose results are put where their
inputs are; tensors inside C++; and the accelerator's own kernels, memory and speed.
"""

from collections.abc import Sequence
from contextlib import contextmanager

import torch
import xarray as xr
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

HOST = torch.device("cpu")
FIRST, SECOND = torch.device("privateuseone:0"), torch.device("privateuseone:1")

_CROSSES = {"copy_", "set_", "__set__", "__repr__", "__format__", "__deepcopy__", "backward", "grad"}
_CROSSES |= {"_has_compatible_shallow_copy_type"}
_TO_HOST = {"tolist", "item", "__float__", "__int__", "__bool__", "__index__", "equal", "is_same_size", "__contains__"}
_OF_NUMPY = {"numpy", "__array__"}


class LogicalDevices(TorchFunctionMode):
    """See the module."""

    def __init__(self, float64: bool):
        super().__init__()
        self._float64 = float64
        self._where: dict[int, tuple[StorageWeakRef, torch.device]] = {}

    def of(self, x: Tensor) -> torch.device:
        if x.device.type != "cpu":
            return x.device
        storage = _values(x).untyped_storage()
        ref, place = self._where.get(storage._cdata, (None, HOST))
        return HOST if ref is None or ref.expired() else place

    def put(self, x: Tensor, place: torch.device) -> Tensor:
        if x.device.type == "cpu":
            if place != HOST and x.dtype == torch.float64 and not self._float64:
                raise TypeError(f"Cannot convert a tensor of {place} to float64, which this device does not have")
            storage = _values(x).untyped_storage()
            self._where[storage._cdata] = StorageWeakRef(storage), place
        return x

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        owner = getattr(func, "__self__", None)
        if name == "__get__" and owner is Tensor.device:
            return self.of(args[0])
        if name == "__get__" and getattr(owner, "__name__", "") in ("is_cuda", "is_cpu"):
            return self.of(args[0]).type == owner.__name__.removeprefix("is_")
        if name in ("to", "cpu", "cuda", "type_as"):
            return self._moved(func, name, args, kwargs)
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        if name in _OF_NUMPY and self.of(args[0]) != HOST:
            raise TypeError(f"can't convert {self.of(args[0])} device type tensor to numpy")
        named = kwargs.pop("device", None)
        if named is not None:
            kwargs["device"] = HOST if torch.device(named).type != "meta" else named
        place = self._place(name, tensors, args)
        held = {_values(x).untyped_storage()._cdata for x in tensors if x.device.type == "cpu"}
        out = func(*args, **kwargs)
        if name == "grad" and func is torch.autograd.grad:
            inputs = args[1] if len(args) > 1 else kwargs["inputs"]
            inputs = [inputs] if isinstance(inputs, Tensor) else inputs
            for x, g in zip(inputs, out, strict=True):
                if g is not None:
                    self.put(g, self.of(x))
            return out
        place = place if named is None else _of(named)
        if place.type != "meta":
            for x in tree_flatten(out)[0]:
                if isinstance(x, Tensor) and x.device.type == "cpu":
                    moves = named is not None and self.of(x) != place
                    if _values(x).untyped_storage()._cdata not in held or moves:
                        self.put(x, place)
        return out

    def _moved(self, func, name, args, kwargs):
        x, *rest = args
        where = self.of(x)
        target = HOST if name == "cpu" else where
        given = [*rest, *kwargs.values()]
        for one in given:
            if isinstance(one, Tensor):
                target = self.of(one)
            elif isinstance(one, torch.device | str | int) and not isinstance(one, bool) and name != "type_as":
                target = _of(one)
        if target.type == "meta":
            return func(*args, **kwargs)
        plain = [HOST if _names_a_device(one) else one for one in rest]
        kwargs = {key: HOST if _names_a_device(one) else one for key, one in kwargs.items()}
        out = x.cpu() if name == "cpu" else func(x, *plain, **kwargs)
        if target != where and _values(out).data_ptr() == _values(x).data_ptr():
            out = out.clone()
        if _values(out).untyped_storage()._cdata != _values(x).untyped_storage()._cdata:
            self.put(out, target)
        return out

    def _place(self, name, tensors, args):
        """Where a call's results are; refused where its tensors are not together."""
        if name in ("__getitem__", "__setitem__", "index_put_", "index_put"):
            own = self.of(args[0])
            indices = [i for i in tree_flatten(args[1])[0] if isinstance(i, Tensor)]
            elsewhere = {self.of(i) for i in indices} - {own, HOST}
            if name != "__getitem__" and isinstance(args[2], Tensor) and args[2].ndim and any(i.ndim for i in indices):
                elsewhere |= {self.of(args[2])} - {own}
            self._refuse(name, own, elsewhere)
            return own
        places = [self.of(x) for x in tensors]
        wide = {place for x, place in zip(tensors, places, strict=True) if x.ndim or place != HOST}
        if name in _CROSSES or name in _TO_HOST and name != "equal":
            return places[0] if places else HOST
        first, *others = sorted(wide, key=str, reverse=True) or [HOST]
        self._refuse(name, first, others)
        return first

    def _refuse(self, name, place, others):
        if others:
            both = " and ".join(map(str, [place, *others]))
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found {both}")


def _values(x: Tensor) -> Tensor:
    """What holds a tensor's numbers: itself, unless it is sparse."""
    if x.layout is torch.sparse_coo:
        return x._values()
    return x if x.layout is torch.strided else x.values()


def _names_a_device(one) -> bool:
    return isinstance(one, torch.device | str) or (isinstance(one, int) and not isinstance(one, bool))


def _of(named) -> torch.device:
    device = torch.device(f"privateuseone:{named}") if isinstance(named, int) else torch.device(named)
    return (
        torch.device(device.type, device.index or 0)
        if device.type not in ("cpu", "meta")
        else torch.device(device.type)
    )


def spread(hf: nn.Module, places: Sequence[torch.device]) -> nn.Module:
    """A model's layers shared out over devices in order by accelerate, what comes before and after them at the ends."""
    import accelerate

    stack = next(m for m in hf.modules() if isinstance(m, nn.ModuleList) and len(m) == hf.config.num_hidden_layers)
    layers = {id(layer): i for i, layer in enumerate(stack)}
    device_map, of_weight, passed = {}, {}, False

    def place(parent: nn.Module, path: str) -> None:
        nonlocal of_weight, passed
        for name, module in parent.named_children():
            at = f"{path}{name}"
            if id(module) in layers:
                device_map[at] = places[layers[id(module)] * len(places) // len(layers)]
                passed = True
            elif any(id(inner) in layers for inner in module.modules()):
                place(module, f"{at}.")
            else:
                at_end = places[-1 if passed and "rotary" not in name else 0]
                # tied weights stay together, as where transformers makes the map
                device_map[at] = next((of_weight[id(w)] for w in module.parameters() if id(w) in of_weight), at_end)
                of_weight |= {id(w): device_map[at] for w in module.parameters()}

    place(hf, "")
    return accelerate.dispatch_model(hf, device_map, main_device=places[0], force_hooks=True)


@contextmanager
def logical_devices(*, float64: bool = True):
    """Torch as if it had accelerators, for as long as the context lasts; gives the mode, whose ``of`` says where.

    Without ``float64`` they have no such numbers, as Apple's ``mps`` has not.
    """
    with LogicalDevices(float64) as devices:
        yield devices


def numbers(results) -> list[Tensor]:
    """What a job gave, tensors and labelled results, as tensors of the host."""
    out = []
    for one in results:
        if isinstance(one, xr.Dataset):
            out += [torch.from_numpy(x.values) for x in one.data_vars.values() if x.dtype.kind in "fi"]
        else:
            out.append(torch.from_numpy(one.values) if isinstance(one, xr.DataArray) else one.detach().cpu())
    assert out
    return out
