"""A dataset of arrays in memory: what the loader makes of it, and every kind of examples that do not go together."""

import pickle
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from jaxft import ArrayDataset
from jaxft.data.loader import eval_batches, train_batches
from jaxft.errors import UserError

Example = dict[str, Any]


def examples(count: int = 7, side: int = 4) -> list[Example]:
    rng = np.random.default_rng(0)
    return [{"image": rng.integers(0, 255, (side, side, 3)).astype(np.uint8), "label": i % 2} for i in range(count)]


def flipped(example: Mapping[str, Any], rng: np.random.Generator) -> Example:
    return {**example, "image": example["image"][:, :: rng.choice([-1, 1])]}


def test_batches_are_the_examples() -> None:
    some = examples()
    dataset = ArrayDataset(some, ["no", "yes"])
    assert (len(dataset), dataset.classes) == (7, ("no", "yes"))
    dataset.check()
    assert dataset.report(2) == "7 examples of 2 classes: image uint8 [4, 4, 3], label int32 []"
    with eval_batches(dataset, batch_size=4) as batches:
        first, second = batches
    assert first["image"].dtype == np.uint8
    assert first["label"].dtype == np.int32
    np.testing.assert_array_equal(first["image"], np.stack([example["image"] for example in some[:4]]))
    np.testing.assert_array_equal(second["mask"], [1, 1, 1, 0])
    assert second["image"].shape == (4, 4, 4, 3)


def test_augmentation_depends_on_seed_epoch_and_example_alone() -> None:
    dataset = ArrayDataset(examples(), ("no", "yes"), augment=flipped)

    def drawn(start: int) -> list[np.ndarray]:
        with train_batches(dataset, batch_size=3, seed=5, start_step=start) as batches:
            return [next(batches)["image"] for _ in range(6 - start)]

    for one, other in zip(drawn(0)[4:], drawn(4), strict=True):
        np.testing.assert_array_equal(one, other)
    plain = ArrayDataset(examples(), ("no", "yes"))
    pairs = [(dataset.training(i, np.random.default_rng(i)), plain.evaluation(i)) for i in range(7)]
    assert any((one["image"] != other["image"]).any() for one, other in pairs)
    np.testing.assert_array_equal(dataset.evaluation(3)["image"], plain.evaluation(3)["image"])


def test_what_training_sees_may_have_another_shape() -> None:
    def small(example: Mapping[str, Any], rng: np.random.Generator) -> Example:
        return {**example, "image": example["image"][:2, :2]}

    dataset = ArrayDataset(examples(), ("no", "yes"), augment=small)
    dataset.check()
    assert dataset.training(1, np.random.default_rng(0))["image"].shape == (2, 2, 3)
    assert dataset.padding(0)["image"].shape == (4, 4, 3)


def test_a_line_changes_with_any_array_of_an_example() -> None:
    before = ArrayDataset(examples(), ("no", "yes")).names()
    changed = examples()
    changed[2]["image"] = changed[2]["image"] + 1
    changed[4]["label"] = 1
    after = ArrayDataset(changed, ("no", "yes")).names()
    assert [one != other for one, other in zip(before, after, strict=True)] == [i in (2, 4) for i in range(7)]
    assert [line.split("\t")[0] for line in before] == [str(i) for i in range(7)]


class Made(Sequence[Example]):
    """Examples that are made when they are asked for."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        return {"image": np.full((2, 2, 3), index, np.uint8), "label": np.int64(index % 2), "weight": 0.5}


def test_examples_may_be_made_one_by_one_and_by_other_processes() -> None:
    dataset = pickle.loads(pickle.dumps(ArrayDataset(Made(), ("no", "yes"))))
    dataset.check()
    arrays = dataset.evaluation(2)
    assert {name: str(np.asarray(array).dtype) for name, array in arrays.items()} == {
        "image": "uint8", "label": "int32", "weight": "float32"
    }  # fmt: skip


def other_shape(some: list[Any]) -> None:
    some[5]["image"] = np.zeros((4, 5, 3), np.uint8)


def other_type(some: list[Any]) -> None:
    some[5]["image"] = np.zeros((4, 4, 3), np.float32)


def array_missing(some: list[Any]) -> None:
    del some[5]["label"]


def array_more(some: list[Any]) -> None:
    some[5]["boxes"] = np.zeros(4)


def label_too_high(some: list[Any]) -> None:
    some[5]["label"] = 2


def label_negative(some: list[Any]) -> None:
    some[5]["label"] = -1


def no_mapping(some: list[Any]) -> None:
    some[5] = (some[5]["image"], 1)


def label_as_text(some: list[Any]) -> None:
    some[5]["label"] = "yes"


def label_missing(some: list[Any]) -> None:
    some[5]["label"] = None


def ragged(some: list[Any]) -> None:
    some[5]["image"] = [[1], [1, 2]]


def name_taken(some: list[Any]) -> None:
    some[5]["mask"] = np.ones(4)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (name_taken, "Example 5 has an array 'mask', which is a name of what the loader adds to a batch"),
        (other_shape, "Example 5: image is uint8 [4, 5, 3], but uint8 [4, 4, 3] in the first example"),
        (other_type, "Example 5: image is float32 [4, 4, 3], but uint8 [4, 4, 3] in the first example"),
        (array_missing, "Example 5 has the arrays image, the first has image, label."),
        (array_more, "Example 5 has the arrays image, label, boxes, the first has image, label."),
        (label_too_high, "Example 5 has the label 2, but there are 2 classes, so that labels are 0 to 1."),
        (label_negative, "Example 5 has the label -1"),
        (no_mapping, "Example 5 is a tuple; a mapping of names to arrays was expected"),
        (label_as_text, "Example 5: label is <U3; an array of numbers was expected."),
        (label_missing, "Example 5: label is object; an array of numbers was expected."),
        (ragged, "Example 5: image is no array ("),
    ],
)
def test_an_example_that_does_not_go_with_the_others_is_named(spoil: Any, message: str) -> None:
    some: list[Any] = examples()
    spoil(some)
    dataset = ArrayDataset(some, ("no", "yes"))
    for use in (dataset.check, lambda: dataset.evaluation(5), lambda: dataset.training(5, np.random.default_rng(0))):
        with pytest.raises(UserError) as raised:
            use()
        assert str(raised.value).startswith(message)
        assert "\n" not in str(raised.value)


def test_an_augmentation_of_changing_shape_is_named() -> None:
    def cropped(example: Mapping[str, Any], rng: np.random.Generator) -> Example:
        return {**example, "image": example["image"][: 2 + example["label"]]}

    dataset = ArrayDataset(examples(), ("no", "yes"), augment=cropped)
    with pytest.raises(
        UserError, match=r"Example 1: image is uint8 \[3, 4, 3\] after `augment`, but uint8 \[2, 4, 3\] in"
    ):
        dataset.training(1, np.random.default_rng(0))


def test_no_examples_are_refused() -> None:
    with pytest.raises(UserError, match="wants at least one example; yours has none"):
        ArrayDataset([], ("no", "yes"))
