"""Work that is done on each image by itself, or on some, and so on the device that has them."""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
from jax.sharding import PartitionSpec

Result = TypeVar("Result")
COPIES = "copies"
"""The axis of a mesh along which devices have the same images."""


def example_axes(axes: Sequence[str]) -> tuple[str, ...]:
    """Those of the axes of a mesh that the images lie over."""
    return tuple(axis for axis in axes if axis != COPIES)


def per_image(function: Callable[..., Result], *arrays: object) -> Result:
    """`function(*arrays)`, by each device for its own images.

    Sorting, gathers, loops until something is found: left to itself XLA brings what they read to every device, feature
    maps and scores of all images. Here nothing travels but what `function` takes from outside of its arguments, such as
    weights, which every device has whole, and whose gradients are summed over the devices once.

    Args:
        function: treats each image by itself, however many it is given.
        arrays: trees of arrays with the images along their first axis.

    Returns:
        what the function returns: a tree of arrays with the images, or as many rows of each, along their first axis.

    The devices are those of the mesh in whose context this is traced (`jax.sharding.use_abstract_mesh`); the images lie
    over all its axes but `COPIES`. Where there is one device, or they have no equal parts of the images, this is a mere
    call.
    """
    return _by_devices(function, arrays, sums=False)


def sum_over_images(function: Callable[..., Result], *arrays: object) -> Result:
    """`function(*arrays)`, the sum of what each device makes of its own images; see `per_image`.

    Args:
        function: adds something up over the images that it is given.
    """
    return _by_devices(function, arrays, sums=True)


def _by_devices(function: Callable[..., Result], arrays: tuple[object, ...], *, sums: bool) -> Result:
    mesh = jax.sharding.get_abstract_mesh()
    manual = mesh.auto_axes  # none without a mesh, and none inside of another call of this
    axes = example_axes(manual)
    devices = math.prod(mesh.shape[axis] for axis in axes)
    if devices == 1:
        return function(*arrays)  # also of any number of images, as in an exported program
    if len(jax.tree.leaves(arrays)[0]) % devices:
        return function(*arrays)

    def summed(*own: object) -> Result:
        return jax.lax.psum(function(*own), axes)

    split, whole = PartitionSpec(axes), PartitionSpec()
    return jax.shard_map(
        summed if sums else function,
        in_specs=split,
        out_specs=whole if sums else split,
        axis_names=set(manual),
        check_vma=False,
    )(*arrays)
