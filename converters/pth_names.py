"""What the names in a PyTorch checkpoint stand for here: tensors, plain containers, and objects that do nothing.

A pickle asks for classes and functions by name. None is looked up: a name is a key of `NAMES`, whose functions build
what is below and copy nothing that the file holds once. The names and arguments are those of PyTorch's
`torch/_utils.py`, `torch/_tensor.py` and `torch/storage.py`.
"""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

# PyTorch's dtypes that NumPy and ml_dtypes have, by PyTorch's name.
DTYPES = {
    name: np.dtype(getattr(ml_dtypes, name, None) or getattr(np, name))
    for name in ("float64", "float32", "float16", "bfloat16", "complex128", "complex64", "int64", "int32", "int16",
                 "int8", "uint64", "uint32", "uint16", "uint8", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
                 "float8_e5m2fnuz", "float8_e8m0fnu")
} | {"bool": np.dtype(np.bool_)}  # fmt: skip
# Those that they have not, with the bytes of an element in a storage; elements of less than a byte are packed.
OTHER_DTYPES = {"complex32": 4, "bcomplex32": 4, "qint32": 4, "bits16": 2} | dict.fromkeys(
    ("qint8", "quint8", "quint4x2", "quint2x4", "bits8", "bits4x2", "bits2x4", "bits1x8", "float4_e2m1fn_x2",
     *(f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8))), 1
)  # fmt: skip
# A storage that does not say what it holds is one of bytes; its tensors say it.
UNTYPED = "bytes"
STORAGES = {
    f"{module}.{kind}Storage": dtype
    for module in ("torch", "torch.cuda", "torch.storage")
    for kind, dtype in {
        "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
        "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
        "ComplexDouble": "complex128", "ComplexFloat": "complex64", "QInt8": "qint8", "QUInt8": "quint8",
        "QInt32": "qint32", "QUInt4x2": "quint4x2", "QUInt2x4": "quint2x4", "Untyped": UNTYPED,
    }.items()
}  # fmt: skip
TENSOR_CLASSES = {"torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"}

# What MMEngine's runner pickles beside the weights, by the names it has under NumPy 1 and 2.
BESIDE_WEIGHTS = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "mmengine.logging.message_hub.MessageHub",
    "builtins.getattr",
    "datetime.datetime",
    "datetime.timedelta",
    "pathlib.PosixPath",
    "numpy.ndarray",
    "numpy.dtype",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.numeric._frombuffer",
    "numpy._core.numeric._frombuffer",
)
# What Python and PyTorch pickle beside them. Nobody asks for their contents, and a call that copied its argument could
# be repeated until the memory is full.
PLAIN = (
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.bytes",
    "builtins.complex",
    "builtins.frozenset",
    "builtins.set",
    "collections.Counter",
    "_codecs.encode",
    "torch.Tensor",
    "torch.device",
    "torch.serialization._get_layout",
    "torch.nn.parameter.Buffer",
    "torch.per_tensor_affine",
    "torch.per_tensor_symmetric",
    "torch.per_channel_affine",
    "torch.per_channel_symmetric",
    "torch.per_channel_affine_float_qparams",
)


class Inert:
    """Stands for an object, or for the result of a call, that a checkpoint holds beside its weights. It does nothing.

    So `getattr(HistoryBuffer, "min")`, which MMEngine pickles, looks nothing up.
    """

    def __init__(self, *_: Any) -> None:
        pass


@dataclass(frozen=True, eq=False, slots=True)
class Global:
    """A name in a pickle, and what a call of it gives."""

    name: str
    make: Callable[..., Any]


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """Part of a run of numbers in a file: `size` elements from `first` on, of `total` in all."""

    key: str
    dtype: str  # PyTorch's name, or UNTYPED
    total: int
    first: int
    size: int

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return itemsize(self.dtype)


@dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """A view of a storage; offset and strides count elements of `dtype`, a key of `DTYPES`."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Unreadable:
    """A tensor that NumPy has no array for: what it is, and what to do."""

    what: str
    cure: str


def itemsize(dtype: str) -> int:
    """Bytes of an element in a storage, by PyTorch's name of the dtype."""
    if dtype == UNTYPED:
        return 1
    return DTYPES[dtype].itemsize if dtype in DTYPES else OTHER_DTYPES[dtype]


def _counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _strided(
    storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any = None, flags: Any = None
) -> Tensor | Unreadable | Inert:
    """A dense tensor, checked; `dtype` where the storage has none, `flags` as `torch._utils.get_tensor_metadata`."""
    if isinstance(storage, Inert):  # as in a plain pickle, where a storage is a call of its own
        return storage
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple:
        raise pickle.UnpicklingError("a tensor without storage, shape or strides")
    if not _counts(offset, *shape, *strides) or len(shape) != len(strides) or len(shape) > 64:
        raise pickle.UnpicklingError("a tensor of no possible shape")
    name = dtype.name.removeprefix("torch.") if isinstance(dtype, Global) else storage.dtype
    for flag in ("neg", "conj"):
        if isinstance(flags, dict) and flags.get(flag):
            kind = {"neg": "negated", "conj": "conjugated"}[flag]
            return Unreadable(f"a lazily {kind} tensor", f"save its .resolve_{flag}()")
    if name not in DTYPES:
        return Unreadable(f"a tensor of the dtype {name}, which NumPy does not have", "save it in another")
    return Tensor(storage, name, offset, shape, strides)


def tensor_v1(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor | Unreadable | Inert:
    """`torch._utils._rebuild_tensor`."""
    return _strided(storage, offset, shape, strides)


def tensor_v2(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, flags: Any = None
) -> Tensor | Unreadable | Inert:
    """`torch._utils._rebuild_tensor_v2`."""
    return _strided(storage, offset, shape, strides, None, flags)


def tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any, flags: Any = None
) -> Tensor | Unreadable | Inert:
    """`torch._utils._rebuild_tensor_v3`, of a storage that does not say its dtype."""
    return _strided(storage, offset, shape, strides, dtype, flags)


def parameter(data: Any, *_: Any) -> Tensor | Unreadable | Inert:
    """`torch.nn.Parameter`: its tensor."""
    if not isinstance(data, Tensor | Unreadable | Inert):
        raise pickle.UnpicklingError("a parameter without a tensor")
    return data


def tensor_of_class(function: Any, kind: Any, arguments: Any, _state: Any) -> Any:
    """`torch._tensor._rebuild_from_type_v2`: a tensor with attributes of its own, or of a class of its own."""
    if not (isinstance(function, Global) and isinstance(kind, Global) and type(arguments) is tuple):
        raise pickle.UnpicklingError("a tensor of no class")
    if kind.name not in TENSOR_CLASSES:
        return Unreadable(f"a tensor of the class {kind.name[:100]}", "save it as a plain torch.Tensor")
    if function.make is tensor_of_class:
        raise pickle.UnpicklingError("a tensor inside itself")
    return function.make(*arguments)


def ordered(pairs: Any = None) -> dict[Any, Any]:
    """`collections.OrderedDict`; Python 2 pickled it with the list of its pairs, which is emptied.

    So its memory is taken once, however often a file asks for it.
    """
    if pairs is None:
        return {}
    if type(pairs) is not list or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
        raise pickle.UnpicklingError("a dictionary of no pairs")
    result = {key_of(key): value for key, value in pairs}
    pairs.clear()
    return result


def mapping(content: Any = None) -> dict[Any, Any]:
    """MMEngine's `ConfigDict`: the dictionary that it is made of."""
    if content is not None and type(content) is not dict:
        raise pickle.UnpicklingError("a ConfigDict without a dictionary")
    return {} if content is None else content


def size(shape: Any) -> tuple[Any, ...]:
    """`torch.Size`."""
    if type(shape) is not tuple:
        raise pickle.UnpicklingError("a torch.Size without numbers")
    return shape


def key_of(key: Any) -> Any:
    """A key that a dictionary may have: tuples in tuples could take forever to hash."""
    if type(key) is tuple and (len(key) > 8 or any(type(part) is tuple for part in key)):
        raise pickle.UnpicklingError("a dictionary with a long or nested tuple as a key")
    return key


def refusing(what: str, cure: str) -> Callable[..., Unreadable]:
    """A function for tensors of one kind that NumPy has no array for."""
    return lambda *_: Unreadable(what, cure)


_SPARSE = refusing("a sparse tensor", "save its .to_dense()")
_ON_DEVICE = refusing("a tensor of a device without storages, such as XLA", "save its .cpu()")
NAMES: dict[str, Callable[..., Any]] = {
    **dict.fromkeys([*BESIDE_WEIGHTS, *PLAIN, *STORAGES], Inert),
    **dict.fromkeys([f"torch.{name}" for name in [*DTYPES, *OTHER_DTYPES]], Inert),
    "collections.OrderedDict": ordered,
    "mmengine.config.config.ConfigDict": mapping,
    "torch.Size": size,
    "torch.nn.parameter.Parameter": parameter,
    "torch._utils._rebuild_parameter": parameter,
    "torch._utils._rebuild_parameter_with_state": parameter,
    "torch._utils._rebuild_tensor": tensor_v1,
    "torch._utils._rebuild_tensor_v2": tensor_v2,
    "torch._utils._rebuild_tensor_v3": tensor_v3,
    "torch._tensor._rebuild_from_type_v2": tensor_of_class,
    "torch._utils._rebuild_qtensor": refusing("a quantized tensor", "save its .dequantize()"),
    "torch._utils._rebuild_sparse_tensor": _SPARSE,
    "torch._utils._rebuild_sparse_csr_tensor": _SPARSE,
    "torch._utils._rebuild_nested_tensor": refusing("a nested tensor", "save its parts one by one"),
    "torch._utils._rebuild_meta_tensor_no_storage": refusing("a meta tensor, without values", "fill the model first"),
    "torch._utils._rebuild_wrapper_subclass": refusing("a tensor of a class of its own", "save it as a torch.Tensor"),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _ON_DEVICE,
    "torch._utils._rebuild_device_tensor_from_numpy": _ON_DEVICE,
    "torch._utils._rebuild_xla_tensor": _ON_DEVICE,
}
