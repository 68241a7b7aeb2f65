from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from converters import load_pretrained, to_torch
from converters.ledger import MismatchError
from converters.recognition import fitting_models
from converters.rules import leaves
from jaxft.errors import UserError
from jaxft.models import abstract_model, initialize_missing
from jaxft.models.paths import filled, values
from tests.converters.tiny import Tiny, random_state, snapshot, tiny

State = dict[str, np.ndarray]


def test_every_leaf_is_filled_and_every_key_spoken_for() -> None:
    model = tiny()
    state = random_state(model)
    ledger = load_pretrained(model, state)
    np.testing.assert_array_equal(model.conv1.kernel[...], state["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(model.layer1[0].kernel[...], state["layer1.0.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(model.fc.kernel[...], state["fc.weight"].T)
    np.testing.assert_array_equal(model.bn1.scale[...], state["bn1.weight"])
    np.testing.assert_array_equal(model.bn1.var[...], state["bn1.running_var"])
    assert int(model.bn1.num_batches_tracked[...]) == state["bn1.num_batches_tracked"]
    assert {row.key for row in ledger.having("mapped")} == state.keys()
    assert {row.path for row in ledger.having("mapped")} == values(model).keys()
    assert ledger.having("skipped") == ledger.having("new") == []
    assert ledger.summary() == "state dict: 15 of 15 source keys mapped, 0 skipped; 0 of our leaves are new"
    assert ledger.table().row_count == 15


def dropped(state: State) -> None:
    del state["layer1.0.weight"]


def extra(state: State) -> None:
    state["layer2.0.weight"] = np.ones(3, np.float32)


def misspelled(state: State) -> None:
    state["fc.weights"] = state.pop("fc.weight")


def mis_shaped(state: State) -> None:
    state["conv1.weight"] = state["conv1.weight"].transpose(0, 1, 3, 2)


def transposed(state: State) -> None:
    state["fc.weight"] = state["fc.weight"].T


def scalar_bias(state: State) -> None:
    state["conv1.bias"] = np.float32(1).reshape(())


def integer_weights(state: State) -> None:
    state["fc.weight"] = state["fc.weight"].astype(np.int32)


def boolean_weights(state: State) -> None:
    state["fc.weight"] = state["fc.weight"] > 1


def complex_weights(state: State) -> None:
    state["fc.weight"] = state["fc.weight"].astype(np.complex64)


def floating_counter(state: State) -> None:
    state["bn1.num_batches_tracked"] = np.float32(3).reshape(())


def not_a_number(state: State) -> None:
    state["bn1.running_var"][2] = np.nan


def infinite(state: State) -> None:
    state["fc.bias"] = np.array([np.inf, 0], np.float16)


def too_large_for_float32(state: State) -> None:
    state["fc.bias"] = np.array([1e300, 0])


def too_large_counter(state: State) -> None:
    state["bn1.num_batches_tracked"] = np.array(2**31)


def negative_counter(state: State) -> None:
    state["bn1.num_batches_tracked"] = np.array(-1)


def other_classes(state: State) -> None:
    state.update(random_state(tiny(7)))


DAMAGE: dict[Callable[[State], None], list[str]] = {
    dropped: ["our layer1.0.kernel is not filled: no source key layer1.0.weight (nearest: layer1.1.weight)"],
    extra: ["source key layer2.0.weight has no place in the model (nearest: layer1.0.weight)"],
    misspelled: ["source key fc.weights has no place in the model (nearest: fc.weight)",
               "our fc.kernel is not filled: no source key fc.weight (nearest: fc.weights)"],
    mis_shaped: ["conv1.weight has shape (4, 3, 2, 3), the model wants (4, 3, 3, 2) in this order of axes"],
    transposed: ["fc.weight has shape (6, 2), the model wants (2, 6) in this order of axes"],
    scalar_bias: ["conv1.bias has shape (), the model wants (4,)"],
    integer_weights: ["fc.weight is int32, the model wants float32"],
    boolean_weights: ["fc.weight is bool, the model wants float32"],
    complex_weights: ["fc.weight is complex64, the model wants float32"],
    floating_counter: ["bn1.num_batches_tracked is float32, the model wants int32"],
    not_a_number: ["bn1.running_var holds values that are NaN, infinite or too large for float32"],
    infinite: ["fc.bias holds values that are NaN, infinite or too large for float32"],
    too_large_for_float32: ["fc.bias holds values that are NaN, infinite or too large for float32"],
    too_large_counter: ["bn1.num_batches_tracked is negative or too large for int32"],
    negative_counter: ["bn1.num_batches_tracked is negative or too large for int32"],
    other_classes: ["fc.weight has shape (7, 6), the model wants (2, 6)",
                    "fc.bias has shape (7,), the model wants (2,)"],
}  # fmt: skip


def refusal(model: nnx.Module, state: State, **options: Any) -> list[str]:
    """The reasons of a `MismatchError`; that nothing was changed is checked."""
    before = snapshot(model)
    with pytest.raises(MismatchError) as error:
        load_pretrained(model, state, **options)
    assert snapshot(model) == before
    first, *reasons = str(error.value).splitlines()
    assert f"({len(reasons)} reason" in first
    assert "nothing was loaded" in first
    return sorted(reason.removeprefix("  - ") for reason in reasons)


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_named_and_nothing_is_loaded(damage: Callable[[State], None]) -> None:
    state = random_state(tiny())
    damage(state)
    assert refusal(tiny(), state) == sorted(DAMAGE[damage])


def test_all_reasons_come_in_one_message() -> None:
    state = random_state(tiny())
    for damage in (dropped, extra, misspelled, mis_shaped, floating_counter, not_a_number):
        damage(state)
    state["head.bias"] = state["fc.bias"]
    reasons = refusal(tiny(), state, skip=["layer3", "aux"], rename={"head.": "fc."})
    assert reasons == sorted(
        [
            "skip pattern 'layer3' matches nothing (nearest: layer2)",
            "skip pattern 'aux' matches nothing",
            "two source keys become fc.bias (the second is head.bias); rename one of them otherwise",
            "our layer1.0.kernel is not filled: no source key layer1.0.weight (nearest: layer2.0.weight)",
            *(reason for damage in (extra, misspelled, mis_shaped, floating_counter, not_a_number)
              for reason in DAMAGE[damage]),
        ]
    )  # fmt: skip


def test_an_idle_skip_pattern_is_an_error() -> None:
    (reason,) = refusal(tiny(), random_state(tiny()), skip=["fc", "bn2"])
    assert reason == "skip pattern 'bn2' matches nothing"


def test_two_keys_that_get_the_same_name_are_an_error() -> None:
    state = random_state(tiny()) | {"head.weight": np.ones((2, 6), np.float32)}
    (reason,) = refusal(tiny(), state, rename={"head.": "fc."})
    assert reason == "two source keys become fc.weight (the second is head.weight); rename one of them otherwise"


def test_what_is_skipped_keeps_its_values_and_is_accounted_for() -> None:
    model, state = tiny(), random_state(tiny(7))
    before = snapshot(model)
    ledger = load_pretrained(model, state, skip=["fc", "*.bias"])
    kept = {path for path, content in snapshot(model).items() if content == before[path]}
    assert kept == {"fc.kernel", "fc.bias", "conv1.bias", "bn1.bias", "layer1.1.bias"}
    assert {row.path for row in ledger.having("new")} == kept
    assert {row.key for row in ledger.having("skipped")} == {
        "fc.weight", "fc.bias", "conv1.bias", "bn1.bias", "layer1.1.bias"
    }  # fmt: skip
    assert len(ledger.having("mapped")) == 10
    assert "10 of 15 source keys mapped, 5 skipped; 5 of our leaves are new" in ledger.summary()


def test_our_own_path_can_be_skipped_too() -> None:
    model, state = tiny(), random_state(tiny())
    kernel = np.array(model.fc.kernel[...])
    ledger = load_pretrained(model, state, skip=["fc.kernel"])
    np.testing.assert_array_equal(model.fc.kernel[...], kernel)
    assert [row.key for row in ledger.having("skipped")] == ["fc.weight"]
    assert [row.path for row in ledger.having("new")] == ["fc.kernel"]


def test_one_sided_names_can_be_skipped() -> None:
    state = random_state(tiny())
    state["aux.weight"] = np.ones(1, np.float32)
    del state["fc.weight"], state["fc.bias"]
    ledger = load_pretrained(tiny(), state, skip=["aux", "fc.kernel", "fc.bias"])
    assert [row.key for row in ledger.having("skipped")] == ["aux.weight"]
    assert {row.path for row in ledger.having("new")} == {"fc.kernel", "fc.bias"}


def test_an_abstract_model_stays_abstract_only_where_skipped() -> None:
    model = nnx.eval_shape(lambda: tiny(7))
    load_pretrained(model, random_state(tiny()), skip=["fc"])
    abstract = {path for path, value in values(model).items() if isinstance(value, jax.ShapeDtypeStruct)}
    assert abstract == {"fc.kernel", "fc.bias"}
    loaded = {path: np.asarray(value) for path, value in values(model).items() if path not in abstract}
    initialize_missing(model, lambda: tiny(7))
    after = values(model)
    assert all(np.array_equal(after[path], value) for path, value in loaded.items())
    np.testing.assert_array_equal(after["fc.kernel"], tiny(7).fc.kernel[...])


def test_renaming_there_and_back() -> None:
    model = tiny()
    plain = random_state(model)
    state = {
        f"backbone.{key}" if not key.startswith("fc.") else key.replace("fc.", "head.cls."): value
        for key, value in plain.items()
    }
    rename = {"backbone.": "", "head.cls.": "fc."}
    load_pretrained(model, state, rename=rename)
    back = to_torch(model, rename=rename)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], value) for key, value in state.items())


def test_the_longest_prefix_wins() -> None:
    plain = random_state(tiny())
    state = {"m." + key.replace("layer1.", "body."): value for key, value in plain.items()}
    assert not load_pretrained(tiny(), state, rename={"m.": "", "m.body.": "layer1."}).having("new")


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_a_round_trip_is_bit_for_bit_pytorchs_state_dict(name: str) -> None:
    model = abstract_model(name, 10)
    state = random_state(model)
    load_pretrained(model, state)
    back = to_torch(model)
    assert list(back) == [leaf.key for leaf in leaves(model)]
    assert back.keys() == state.keys()
    for key, array in back.items():
        assert (array.dtype, array.shape) == (state[key].dtype, state[key].shape), key
        assert array.flags.c_contiguous, key
        assert array.tobytes() == state[key].tobytes(), key


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_pytorch_loads_the_export_strictly(name: str) -> None:
    torch = pytest.importorskip("torch")
    from converters.verify_reference import reference

    theirs = reference(name, 10)
    model = abstract_model(name, 10)
    load_pretrained(model, random_state(model))
    exported = to_torch(model)
    expected = {key: (tuple(tensor.shape), tensor.numpy().dtype) for key, tensor in theirs.state_dict().items()}
    assert {key: (array.shape, array.dtype) for key, array in exported.items()} == expected
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in exported.items()}, strict=True)
    assert all(np.array_equal(exported[key], tensor.numpy()) for key, tensor in theirs.state_dict().items())


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floating_types_are_accepted(dtype: str) -> None:
    model = tiny()
    state = {
        key: value.astype(dtype) if value.dtype == np.float32 else value for key, value in random_state(model).items()
    }
    load_pretrained(model, state)
    np.testing.assert_array_equal(model.fc.kernel[...], state["fc.weight"].T.astype(np.float32))
    assert {str(value.dtype) for value in values(model).values()} == {"float32", "int32"}


def test_tensors_of_pytorch_are_accepted() -> None:
    torch = pytest.importorskip("torch")
    model, state = tiny(), random_state(tiny())
    load_pretrained(model, {key: torch.from_numpy(np.array(value)) for key, value in state.items()})
    assert all(np.array_equal(value, state[key]) for key, value in to_torch(model).items())


def test_the_model_does_not_share_memory_with_the_source() -> None:
    model, state = tiny(), random_state(tiny())
    load_pretrained(model, state)
    before = snapshot(model)
    for value in state.values():
        value[...] = 0
    assert snapshot(model) == before


def test_a_file_that_counts_no_batches_is_taken_as_pytorch_takes_it() -> None:
    state = {key: value for key, value in random_state(tiny()).items() if not key.endswith("num_batches_tracked")}
    model = tiny()
    ledger = load_pretrained(model, state)
    assert int(model.bn1.num_batches_tracked[...]) == 0
    assert {row.path for row in ledger.having("new")} == {
        "bn1.num_batches_tracked", "layer1.1.num_batches_tracked"
    }  # fmt: skip
    old = {key: value for key, value in random_state(abstract_model("resnet34")).items() if "num_batches" not in key}
    assert fitting_models(old) == ["resnet34"]


def test_one_missing_counter_among_others_is_an_error() -> None:
    state = random_state(tiny())
    del state["bn1.num_batches_tracked"]
    assert refusal(tiny(), state) == [
        "our bn1.num_batches_tracked is not filled: no source key bn1.num_batches_tracked "
        "(nearest: layer1.1.num_batches_tracked)"
    ]


def test_a_copy_is_filled_by_path() -> None:
    model = tiny()
    copy = filled(nnx.eval_shape(tiny), values(model))
    assert isinstance(copy, Tiny)
    assert snapshot(copy) == snapshot(model)


def test_what_lies_below_a_prefix_is_taken_alone_and_goes_home_under_its_own_names() -> None:
    """A file of a student and a teacher, and a head outside of both."""
    state = random_state(tiny())
    student = {f"student.{key}": tensor for key, tensor in state.items()}
    teacher = {f"teacher.{key}": tensor for key, tensor in state.items()}
    outside = {"fc.bias": state["fc.bias"] + 7}
    other = tiny()
    ledger = load_pretrained(other, student | teacher | outside, prefix="student.")
    assert {row.key for row in ledger.having("skipped")} == {*teacher, *outside}
    home = to_torch(other)
    assert home.keys() == state.keys()
    for key, tensor in state.items():
        np.testing.assert_array_equal(home[key], tensor)
    with pytest.raises(
        UserError, match=r"Nothing in state dict lies below 'tutor\.'; its names begin with fc\., student\."
    ):
        load_pretrained(other, student | teacher | outside, prefix="tutor.")
