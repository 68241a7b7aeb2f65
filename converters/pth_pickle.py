"""An interpreter of pickles that knows data and runs nothing.

Python's `pickletools` takes a pickle apart into opcodes; what each does is below, for protocols 0 to 5. Nothing is
imported, looked up, called or set on behalf of the file: names become what `pth_names.NAMES` says, or an `Inert`.
Every opcode makes at most one small object beside the bytes that it carries itself, so that a pickle takes less than
130 bytes of memory for each of its own, however hostile it is (`tests/converters/test_pth_hostile.py`). No function
calls itself.
"""

import pickle
import pickletools
import warnings
from typing import Any

from converters.pth_names import NAMES, STORAGES, Global, Inert, Storage, Unreadable, key_of

# LONG4, EXT1 and out-of-band buffers are not among the opcodes: no checkpoint has them.
VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "STRING",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
# Python 2's names, which protocol 2 keeps.
PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}


class Unpickler:
    """The state of one pickle: a stack, those of the marks around it, a memo; and what was found in it.

    Attributes:
        unknown: the names in it that stand for nothing here, in order.
        storages: the storages that tensors lie in, by key.
        holds_module: whether it holds a whole `torch.nn.Module`.
    """

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.unknown: dict[str, None] = {}
        self.storages: dict[str, Storage] = {}
        self.holds_module = False

    def load(self, stream: Any) -> Any:
        """The object that a pickle describes.

        Args:
            stream: a binary file or a map of one, at the start of the pickle; at its end afterwards.

        Raises:
            pickle.UnpicklingError, ValueError, TypeError, IndexError, KeyError: it is damaged or hostile.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of odd escapes in the texts of protocol 0.
            for opcode, argument, _ in pickletools.genops(stream):
                self._step(opcode.name, argument)
        return self.stack.pop()

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        if opcode in VALUES:
            stack.append(argument)
        elif opcode in ("BINSTRING", "SHORT_BINSTRING"):
            stack.append(_text(argument))
        elif opcode in CONSTANTS:
            stack.append(CONSTANTS[opcode])
        elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif opcode == "MARK":
            self.outer.append(stack)
            self.stack = []
        elif opcode in ("POP", "DUP"):
            top = stack.pop()
            stack += [top, top] if opcode == "DUP" else []
        elif opcode == "POP_MARK":
            self._to_mark()
        elif (
            opcode not in ("PROTO", "FRAME", "STOP") and not self._collect(opcode) and not self._call(opcode, argument)
        ):
            raise pickle.UnpicklingError(f"the opcode {opcode}, which no checkpoint has")

    def _to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def _collect(self, opcode: str) -> bool:
        """Does an opcode that fills a container; False where it is none."""
        if opcode in TUPLES:
            count = TUPLES[opcode]
            if len(self.stack) < count:
                raise pickle.UnpicklingError("a tuple of nothing")
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif opcode in ("TUPLE", "LIST"):
            items = self._to_mark()
            self.stack.append(tuple(items) if opcode == "TUPLE" else items)
        elif opcode in ("DICT", "FROZENSET"):
            items = self._to_mark()
            self.stack.append(_dictionary(items) if opcode == "DICT" else Inert())
        elif opcode == "EMPTY_LIST":
            self.stack.append([])
        elif opcode == "EMPTY_DICT":
            self.stack.append({})
        elif opcode == "EMPTY_SET":
            self.stack.append(Inert())
        elif opcode in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [self.stack.pop()] if opcode == "APPEND" else self._to_mark()
            if type(self.stack[-1]) is list:
                self.stack[-1].extend(items)
            else:
                _expect_inert(self.stack[-1])
        elif opcode in ("SETITEM", "SETITEMS"):
            items = [self.stack.pop(), self.stack.pop()][::-1] if opcode == "SETITEM" else self._to_mark()
            if type(self.stack[-1]) is dict:
                self.stack[-1].update(_dictionary(items))
            else:
                _expect_inert(self.stack[-1])
        else:
            return False
        return True

    def _call(self, opcode: str, argument: Any) -> bool:
        """Does an opcode that names, makes or fills an object; False where it is none."""
        stack = self.stack
        if opcode == "GLOBAL":
            stack.append(self._named(*argument.split(" ", 1)))
        elif opcode == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(self._named(module, name))
        elif opcode in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._result(function, arguments))
        elif opcode == "NEWOBJ_EX":
            del stack[-3:]
            stack.append(Inert())
        elif opcode == "INST":
            arguments = tuple(self._to_mark())
            self.stack.append(self._result(self._named(*argument.split(" ", 1)), arguments))
        elif opcode == "OBJ":
            function, *rest = self._to_mark()
            self.stack.append(self._result(function, tuple(rest)))
        elif opcode == "BUILD":
            state = stack.pop()
            self.holds_module |= isinstance(state, dict) and "_parameters" in state and "_modules" in state
            if type(stack[-1]) is not dict:  # as the attributes of an OrderedDict, which are of no use here
                _expect_inert(stack[-1])
        elif opcode in ("BINPERSID", "PERSID"):
            stack.append(self._persistent(argument if opcode == "PERSID" else stack.pop()))
        else:
            return False
        return True

    def _named(self, module: Any, name: Any) -> Global:
        if type(module) is not str or type(name) is not str:
            raise pickle.UnpicklingError("a name that is no text")
        full = f"{PYTHON_2.get(module, module)}.{name}"
        if full not in NAMES:
            self.unknown[full] = None
        return Global(full, NAMES.get(full, Inert))

    def _result(self, function: Any, arguments: Any) -> Any:
        """What stands for a call; `function` is only ever one of those of `NAMES`."""
        if isinstance(function, Inert):
            return Inert()
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise pickle.UnpicklingError("a call of something that is no function")
        result = function.make(*arguments)
        if isinstance(result, Unreadable):  # it is refused under its own name, and with it the classes that it names
            for part in arguments:
                if isinstance(part, Global):
                    self.unknown.pop(part.name, None)
        return result

    def _persistent(self, reference: Any) -> Any:
        """What a reference out of the pickle means: a storage, or (before 2018) a module's class and its source."""
        match reference:
            case ("module", Global() as kind, *_):
                self.holds_module = True
                return kind
            case ("storage", Global(name=kind), str() as key, _, int() as total, *views) if (
                kind in STORAGES and total >= 0
            ):
                first, size = 0, total
                if views not in ([], [None]):
                    [(_, first, size)] = views
                    if type(first) is not int or type(size) is not int or not 0 <= first <= first + size <= total:
                        raise pickle.UnpicklingError("a part of a storage outside it")
                storage = Storage(key, STORAGES[kind], int(total), first, size)
                known = self.storages.setdefault(key, storage)
                if (known.dtype, known.total) != (storage.dtype, storage.total):
                    raise pickle.UnpicklingError("one storage of two kinds")
                return storage
            case _:
                raise pickle.UnpicklingError("a reference to no storage")


def _text(characters: str) -> str:
    """A string of Python 2, one character a byte: a text in UTF-8, or bytes that nobody asks for."""
    try:
        return characters.encode("latin-1").decode()
    except UnicodeDecodeError:
        return characters


def _dictionary(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise pickle.UnpicklingError("a key without a value")
    return {key_of(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _expect_inert(target: Any) -> None:
    if not isinstance(target, Inert):
        raise pickle.UnpicklingError("something is put into what is no container")
