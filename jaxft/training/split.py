"""A function cut in two: what its large input and fixed arrays decide, and the rest, which changes from step to step.

So what lies in front of all that trains is computed once for each example, whatever the model and the task are: the
function is traced, and every operation that depends on what may change belongs to the rest. What the rest needs of the
first part is what is worth keeping.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import jax
import jax.extend
from jax import Array

FIXED, EXAMPLES, VARYING = 0, 1, 2
"""What a value depends on at most: arrays that never change, the examples' large array, or what changes."""
CALLS = ("jit", "pjit", "closed_call")
"""Operations that are nothing but a function of their own."""


@dataclass(frozen=True)
class Written:
    """A value that stands in the program itself."""

    value: Any


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation of a traced function, whose inputs and outputs are numbers of values."""

    equation: Any
    inputs: tuple[int | Written, ...]
    outputs: tuple[int, ...]
    where: Any  # what messages of JAX say of the function around it

    def __call__(self, values: dict[int, Any]) -> None:
        """Computes the outputs from the inputs, all by their numbers in `values`."""
        named = {}
        for variable, place in zip(self.equation.invars, self.inputs, strict=True):
            if not isinstance(variable, jax.extend.core.Literal):
                named[variable] = place.value if isinstance(place, Written) else values[place]
        alone = jax.extend.core.Jaxpr(
            (), list(named), named_outputs(self.equation), [self.equation], self.equation.effects, self.where
        )
        run = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(alone, ()))  # type: ignore[attr-defined]
        values.update(zip(self.outputs, run(*named.values()), strict=True))


def named_outputs(equation: Any) -> list[Any]:
    """What an operation gives that anything may want."""
    return [variable for variable in equation.outvars if str(variable) != "_"]


@dataclass(frozen=True, eq=False)
class Split:
    """A function of (varying, fixed, large, others), cut where the first varying value is needed.

    Attributes:
        kept: shapes and types of what the first part gives for a batch.
    """

    before: tuple[Operation, ...]
    after: tuple[Operation, ...]
    constants: Mapping[int, Any]
    arguments: tuple[tuple[int, ...], ...]
    results: tuple[int | Written, ...]
    structure: Any
    frontier: tuple[int, ...]
    kept: tuple[jax.ShapeDtypeStruct, ...]

    @property
    def places(self) -> Any:
        """Where each result comes from; one that an argument passes through to has that argument's place."""
        return jax.tree.unflatten(self.structure, self.results)

    def first(self, fixed: Any, large: Array) -> tuple[Array, ...]:
        """What is worth keeping of a batch, in the order of `kept`."""
        _, fixed_numbers, large_numbers, _ = self.arguments
        values = {**self.constants, **_numbered(fixed_numbers, fixed), **_numbered(large_numbers, large)}
        for operation in self.before:
            operation(values)
        return tuple(values[number] for number in self.frontier)

    def rest(self, varying: Any, fixed: Any, kept: Sequence[Array], others: Any) -> Any:
        """The function's result, from what `first` has given in the place of the large array."""
        numbers, fixed_numbers, _, other_numbers = self.arguments
        values = {**self.constants, **_numbered(fixed_numbers, fixed), **_numbered(numbers, varying)}
        values |= _numbered(other_numbers, others) | dict(zip(self.frontier, kept, strict=True))
        for operation in self.after:
            operation(values)
        found = [one.value if isinstance(one, Written) else values[one] for one in self.results]
        return jax.tree.unflatten(self.structure, found)


def _numbered(numbers: Sequence[int], argument: Any) -> dict[int, Any]:
    return dict(zip(numbers, jax.tree.leaves(argument), strict=True))


def cut(function: Callable[..., Any], varying: Any, fixed: Any, large: Any, others: Any) -> Split:
    """Cuts `function(varying, fixed, large, others)` in two. The arguments are trees of arrays, which may be abstract;
    whatever is made of `others` belongs to the rest."""
    groups = (varying, fixed, large, others)
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(*groups)
    flat = _Flat()
    numbers = tuple(next(flat.counted) for _ in traced.jaxpr.invars)
    results = flat.inside(traced.jaxpr, traced.consts, numbers)
    rest = iter(numbers)
    arguments = tuple(tuple(next(rest) for _ in jax.tree.leaves(group)) for group in groups)
    role = dict.fromkeys(flat.constants, FIXED)
    for group, kind in zip(arguments, (VARYING, FIXED, EXAMPLES, VARYING), strict=True):
        role |= dict.fromkeys(group, kind)
    types = dict(zip(numbers, traced.in_avals, strict=True))
    for operation in flat.operations:
        kind = max((role[one] for one in operation.inputs if isinstance(one, int)), default=FIXED)
        role |= dict.fromkeys(operation.outputs, kind)
        types |= {
            number: variable.aval
            for number, variable in zip(operation.outputs, named_outputs(operation.equation), strict=True)
        }
    wanted = {one for one in results if isinstance(one, int)}
    after = _needed(flat.operations, wanted, lambda number: role[number] != EXAMPLES)
    frontier = tuple(sorted(one for one in wanted if role[one] == EXAMPLES))
    before = _needed(flat.operations, set(frontier), lambda number: True)
    kept = tuple(jax.ShapeDtypeStruct(types[one].shape, types[one].dtype) for one in frontier)
    return Split(before, after, flat.constants, arguments, results, jax.tree.structure(shapes), frontier, kept)


def _needed(
    operations: Sequence[Operation], wanted: set[int], computed: Callable[[int], bool]
) -> tuple[Operation, ...]:
    """The operations that lead to what is wanted, but for values that are not computed; all that they need is added to
    what is wanted."""
    found = []
    for operation in reversed(operations):
        if any(number in wanted and computed(number) for number in operation.outputs):
            found.append(operation)
            wanted.update(one for one in operation.inputs if isinstance(one, int))
    return tuple(reversed(found))


class _Flat:
    """A traced function without functions inside: its operations in order, and its constants by number."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.constants: dict[int, Any] = {}
        self.counted = count()

    def inside(self, jaxpr: Any, constants: Sequence[Any], inputs: Sequence[int | Written]) -> tuple[Any, ...]:
        """Adds the operations of a function of these inputs; gives what it puts out."""
        number: dict[Any, int | Written] = dict(zip(jaxpr.invars, inputs, strict=True))
        for variable, value in zip(jaxpr.constvars, constants, strict=True):
            own = next(self.counted)
            number[variable], self.constants[own] = own, value

        def place(variable: Any) -> int | Written:
            return Written(variable.val) if isinstance(variable, jax.extend.core.Literal) else number[variable]

        for equation in jaxpr.eqns:
            given = tuple(map(place, equation.invars))
            if equation.primitive.name in CALLS:
                called = equation.params["jaxpr"]
                number.update(zip(equation.outvars, self.inside(called.jaxpr, called.consts, given), strict=True))
                continue
            outputs = tuple(next(self.counted) for _ in named_outputs(equation))
            number.update(zip(named_outputs(equation), outputs, strict=True))
            self.operations.append(Operation(equation, given, outputs, jaxpr.debug_info))
        return tuple(map(place, jaxpr.outvars))
