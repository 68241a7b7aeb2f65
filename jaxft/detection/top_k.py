"""The best of many candidates."""

import jax
import jax.numpy as jnp
from jax import Array

GROUP, MANY = 16, 500_000


def top_k(scores: Array, count: int) -> tuple[Array, Array]:
    """The `count` highest of each row of `scores` `[N, A]` and their places, `[N, count]` each, as `jax.lax.top_k`.

    Of equal ones the first is better.

    Where there are very many, first the groups of candidates with the highest maxima are found, as many as `count`. No
    other group holds a winner, since each of these has one that is at least as good. So what is sorted is sixteen
    times shorter. Seen on two CPU cores, two rows, the best 1,000: of a million in 2.1 ms, not 4.3; of 200,000 in 1.9
    ms, not 1.6, hence `MANY`.
    """
    if scores.shape[1] < max(MANY, 2 * GROUP * count):
        return jax.lax.top_k(scores, count)
    groups = jnp.pad(scores, ((0, 0), (0, -scores.shape[1] % GROUP)), constant_values=-jnp.inf)
    groups = groups.reshape(len(scores), -1, GROUP)
    # In their own order, so that of equal candidates the first stays first.
    chosen = jnp.sort(jax.lax.top_k(groups.max(-1), count)[1], 1)
    own = jnp.take_along_axis(groups, chosen[..., None], 1).reshape(len(scores), -1)
    best, place = jax.lax.top_k(own, count)
    return best, jnp.take_along_axis(chosen, place // GROUP, 1) * GROUP + place % GROUP
