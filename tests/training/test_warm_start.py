"""A run that starts from another run."""

from pathlib import Path

import numpy as np
import pytest

from jaxft import train
from jaxft.config import load, replace
from jaxft.errors import UserError
from jaxft.models.paths import values
from jaxft.run import named_run
from jaxft.training.setup import set_up
from tests.small import call, final, user_error, write_config

pytest_plugins = ("tests.runs",)


def test_weights_and_classes_come_from_the_run(small_run: Path, config_file: Path) -> None:
    """Those of the best model by default; where the classes are others, a new head, or the rows of the same names."""
    config = replace(load(config_file), {"pretrained.source": f"run://{small_run}"})
    for source, which in (("", "best"), ("#last", "last"), (f"#{final(small_run)[0]}", "last")):
        setup = set_up(replace(config, {"pretrained.source": f"run://{small_run}{source}"}))
        assert setup.load_weights() is not None
        trained = final(small_run, which)[1]
        for path, array in values(setup.model).items():
            np.testing.assert_array_equal(array, trained[path], err_msg=path)


def test_rows_of_the_head_come_along_by_name(small_run: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("red", "green"):
        for split in ("train", "test"):
            (tmp_path / "photos" / split).mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / split / name).symlink_to(photos / split / name)
    config = load(write_config(tmp_path / "two.py", tmp_path / "photos"))
    source = {"pretrained.source": f"run://{small_run}", "pretrained.skip": ("@head",)}
    setup = set_up(replace(config, {**source, "pretrained.transfer_head_rows": True}))
    state = setup.first_state(setup.stages[0], setup.load_weights())
    np.testing.assert_array_equal(state.params["fc.kernel"], final(small_run, "best")[1]["fc.kernel"][:, 1:])
    with pytest.raises(UserError, match=r"fc\.weight"):
        set_up(replace(config, {"pretrained.source": f"run://{small_run}"})).load_weights()


def test_what_is_no_run(config_file: Path, tmp_path: Path) -> None:
    flags = ("--config", config_file, "--workdir", tmp_path / "run", "--pretrained.source")
    assert str(tmp_path / "nowhere") in user_error(call(train.main, *flags, f"run://{tmp_path}/nowhere"))
    assert "a checkpoint is called #best, #last" in user_error(call(train.main, *flags, "run://somewhere#first"))
    assert named_run("torchvision://resnet18") is None
    assert not (tmp_path / "run").exists()
