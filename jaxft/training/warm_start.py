"""First weights from another run: `pretrained.source run://DIRECTORY`, its model as a checkpoint of PyTorch's names."""

import atexit
import shutil
import tempfile
from pathlib import Path

from converters.exports import export
from jaxft.activity import doing
from jaxft.config import Pretrained, replace
from jaxft.run import named_run
from jaxft.training.finished import open_run


def with_file(pretrained: Pretrained) -> Pretrained:
    """The same with a file in the place of a run, for as long as this process lasts: its model, with the names of its
    classes.

    Raises:
        UserError: there is no such run, or it holds no such checkpoint.
    """
    if (found := named_run(pretrained.source)) is None:
        return pretrained
    directory, which = found
    with doing(f"opening {pretrained.source}"):
        run = open_run(directory, which)
        folder = Path(tempfile.mkdtemp(prefix="jaxft-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        file = folder / f"{directory.name or 'run'}.safetensors"
        export(run.model, file, classes=run.classes, mmdet=run.config.model.mmdet)
    return replace(pretrained, {"source": str(file)})
