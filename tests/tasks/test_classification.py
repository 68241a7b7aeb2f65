"""Classification: what its loss refuses, because it would be broadcast to a wrong one."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from jaxft.errors import UserError
from jaxft.tasks import Classification, Images
from jaxft.tasks.classification.task import ClassificationTask

IMAGES = np.zeros((4, 8, 8, 3), np.float32)


def of_shape(*shape: int) -> Callable[[Array], Array]:
    return lambda _: jnp.zeros(shape)


@pytest.mark.parametrize(
    ("outputs", "labels"), [((4, 3), (4, 1)), ((4, 3), ()), ((4, 3), (1,)), ((4, 2, 3), (4, 2)), ((4,), (4,))]
)
def test_shapes_that_would_be_broadcast_are_refused(outputs: tuple[int, ...], labels: tuple[int, ...]) -> None:
    task = ClassificationTask(Classification(images=Images(crop=8, resize=8)))
    batch = {"image": IMAGES, "label": np.zeros(labels, np.int32)}
    for function in (task.loss, task.predict):
        with pytest.raises(UserError) as raised:
            function(of_shape(*outputs), batch)  # type: ignore[arg-type]
        assert f"shape {outputs} for labels of the shape {labels}" in str(raised.value)


def test_one_label_an_example_is_taken() -> None:
    task = ClassificationTask(Classification(images=Images(crop=8, resize=8)))
    loss, _ = task.loss(of_shape(4, 3), {"image": jnp.asarray(IMAGES), "label": jnp.arange(4) % 3})
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-6)


class Predicting:
    def predict(self) -> None: ...


class Losing:
    def loss(self) -> None: ...


class Finder(Predicting, Losing): ...


def test_a_detector_has_a_loss_and_a_prediction_of_its_own() -> None:
    task = ClassificationTask(Classification())
    task.check_model(Predicting(), ("a", "b"))
    task.check_model(Losing(), ("a", "b"))
    with pytest.raises(UserError, match="is a detector"):
        task.check_model(Finder(), ("a", "b"))
