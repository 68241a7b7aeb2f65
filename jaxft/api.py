"""What jaxft is from Python, besides what `jaxft/__init__.py` lists from elsewhere: models, and finished runs."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path, PurePath
from typing import Any, cast

import numpy as np
from flax import nnx

from converters import load_pretrained
from converters.exports import export
from jaxft import models, surgery
from jaxft.config import Report, replace
from jaxft.data.dataset import Dataset
from jaxft.data.preprocessing import Preprocessing
from jaxft.edits import Edit
from jaxft.errors import UserError
from jaxft.inference import asked, through_views
from jaxft.models.streams import initial_rngs
from jaxft.places import place
from jaxft.run import RunDirectory
from jaxft.training.checkpoint import Which
from jaxft.training.evaluation import evaluate as evaluated
from jaxft.training.evaluation import run_predictor, validation_dataset
from jaxft.training.finished import FinishedRun, Trained, open_run
from jaxft.training.fitted import Fitted
from jaxft.training.layout import outside_meshes


@outside_meshes()
def create_model(
    name: str,
    num_classes: int | None = None,
    *,
    pretrained: str | Path | Mapping[str, np.ndarray] | None = None,
    rngs: nnx.Rngs | None = None,
    edits: Sequence[Edit] = (),
    **options: Any,
) -> nnx.Module:
    """A model by its name, with initial values or with those of a checkpoint.

    Args:
        name: one of `jaxft.list_models()`.
        num_classes: the number of classes; as many as its published weights where it is None.
        pretrained: a path, an http(s) URL, `package://MODULE/FILE`, `torchvision://NAME[/WEIGHTS]` or a state dict, all
            of which must fit. For a new head, make the model without and call `jaxft.load_pretrained(model, source,
            skip=("@head",))`.
        rngs: where initial values and dropout draw from; seed 0 where it is None.
        edits: what is deleted, replaced, inserted or cut off, of `jaxft.edits`; the checkpoint may be of the model
            before them, or after them, see `jaxft.load_pretrained`.
        options: further arguments of the family's builder (`dropout`, ...).

    Returns:
        A classifier, which maps normalized float images `[N, H, W, 3]` to logits `[N, num_classes]`, its
        `model.features(x)` to the pooled features before the last linear layer. Or a detector (see
        `jaxft.models.detectors.detector`), whose `model.predict(images, sizes)` gives boxes, scores and labels. It is
        in training mode; `model.eval()` and `model.train()` change that.

    Raises:
        UserError: the name is not known, the builder has no such option, the checkpoint is missing or does not fit, or
            the edits do not go with the model.
    """
    if rngs is not None:
        model = models.create_model(name, num_classes, rngs=rngs, **options)
    else:
        model = models.abstract_model(name, num_classes, **options)
    record = surgery.edit(model, edits, num_classes=num_classes, rngs=rngs) if edits else None
    if pretrained is not None:
        load_pretrained(model, pretrained, original=None)

    def build() -> nnx.Module:
        built = models.create_model(name, num_classes, rngs=initial_rngs(0), **options)
        return built if record is None else record.again(built, record.num_classes or 0)

    if rngs is None:  # what is still missing, in one program: layer by layer it takes four times as long
        models.initialize_missing(model, build)
    return model


@outside_meshes()
def save(
    model: nnx.Module | Trained,
    path: str | Path,
    *,
    classes: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    wrapped: bool | None = None,
) -> None:
    """Writes a model for PyTorch, under its original names, with what must travel with the weights.

    A `.safetensors` holds all of it. A `.pth` holds the state dict alone, which `load_state_dict(torch.load(path))`
    accepts, and `NAME.pth.json` beside it the rest; or, `wrapped`, it is `{"state_dict": ..., "meta": ...}`, which
    MMDetection's own loader takes, with the names of the classes.

    Args:
        model: a model; or what `fit` gave back or `load_run` opened, which say the classes and the preprocessing, too.
        path: where to; a file that is there is replaced.
        classes: names of the classes, in the order of the model's outputs.
        preprocessing: how photos become what the model sees.
        wrapped: whether a `.pth` is wrapped; by default those of runs that MMDetection's configuration described.

    Raises:
        UserError: the suffix is neither, the disk cannot be written, or a parameter has no certain name in PyTorch.
    """
    rename: Mapping[str, str] = {}
    mmdet = None
    if not isinstance(model, nnx.Module):
        trained, model = model, model.model
        classes, preprocessing = classes or trained.classes, preprocessing or trained.preprocessing
        mmdet = trained.config.model.mmdet
        wrapped = mmdet is not None if wrapped is None else wrapped
        # A prefix that was put before a whole checkpoint says that it was only a part of this model, a backbone.
        rename = {theirs: ours for theirs, ours in trained.config.pretrained.rename.items() if theirs}
    export(
        model,
        Path(path),
        classes=classes,
        preprocessing=preprocessing,
        wrapped=bool(wrapped),
        rename=rename,
        mmdet=mmdet,
    )


@outside_meshes()
def load_run(path: str | Path, *, checkpoint: Which | None = None, model: nnx.Module | None = None) -> FinishedRun:
    """A run opened again, in its directory or while it goes on: `model` (in evaluation mode), `classes`,
    `preprocessing`, `config`.

    Args:
        checkpoint: which model of the run; by default the best where an evaluation has chosen one, and else the last.
        model: of a run that was given a model of your own: one like it; its values do not matter.

    Raises:
        UserError: the directory is no run, is damaged, or holds no checkpoint yet.
    """
    return open_run(place(path), checkpoint, model)


@outside_meshes()
def evaluate(
    run: str | Path | Trained,
    dataset: Dataset | None = None,
    *,
    split: str | None = None,
    root: str | Path | None = None,
    checkpoint: Which | None = None,
    model: nnx.Module | None = None,
    tta: str | Sequence[str] = (),
    tta_scales: Sequence[float] = (),
    tta_iou: float | None = None,
    calibrated: bool = False,
) -> dict[str, float]:
    """The metrics of a run's model on a dataset, or on a split of the configured data.

    Args:
        run: a run directory, or what `fit` gave back or `load_run` opened.
        dataset: one of your own; by default the validation split that the run was evaluated on.
        split: the name of another split.
        root: another data folder than the run's.
        checkpoint, model: as of `load_run`.
        tta, tta_scales: test-time augmentation, whose views are merged: `"flip"`, and for photos of one label or
            several `"five"` or `"ten"` crops; factors of the size to look at each view in, such as `(1, 1.15)`.
        tta_iou: of detectors: boxes of one class that overlap more than this are merged; 0.5 by default.
        calibrated: divide the logits by the temperature that `jaxft calibrate` has found.

    Raises:
        UserError: the run or the data cannot be used, or are of different classes; or the task takes no such views.
    """
    trained = _opened(run, checkpoint, model)
    config = trained.config if root is None else replace(trained.config, {"data.root": str(root)})
    task = config.task.task(config.dtype)
    if dataset is None and split is not None:
        dataset = task.dataset(config.data, split, trained.classes)
    elif dataset is None:
        if isinstance(trained, FinishedRun) and "datasets" in trained.directory.own():
            raise UserError(f"{trained.directory.path} was trained on datasets of your own; name one to evaluate on.")
        if isinstance(trained, Fitted) and root is None:
            dataset = trained.setup.validation
        else:
            dataset = validation_dataset(task, config, trained.classes)
        if dataset is None:
            raise UserError("The run has no validation split; name a split, or give a dataset.")
    if dataset.classes != trained.classes:
        raise UserError(f"The data have the classes {dataset.classes}, the run was trained on {trained.classes}.")
    dataset.check()
    viewing = asked(tta, tta_scales, tta_iou, calibrated=calibrated).of_run(_directory(trained), trained.model)
    predictor, arrays = run_predictor(trained, task)
    with closing(predictor):
        return evaluated(through_views(predictor, task, dataset, viewing), task, arrays, dataset).metrics


@outside_meshes()
def predict(
    run: str | Path | Trained,
    photos: str | Path | Sequence[str | Path] | Dataset,
    *,
    checkpoint: Which | None = None,
    model: nnx.Module | None = None,
    tta: str | Sequence[str] = (),
    tta_scales: Sequence[float] = (),
    tta_iou: float | None = None,
    calibrated: bool = False,
) -> list[dict[str, Any]]:
    """What a run's model says of photos: an entry a photo, of plain values, as `jaxft predict` writes them as JSON.

    A classifier's entry has `file`, `class` and `probabilities` by class; a detector's `file` and `objects`, each with
    `class`, `score` and `box`: left, top, right and bottom in pixels of the photo.

    Args:
        run: a run directory, or what `fit` gave back or `load_run` opened.
        photos: files, folders of photos, or a dataset of your own, whose entries are called by its `names`.
        checkpoint, model: as of `load_run`.
        tta, tta_scales, tta_iou, calibrated: as of `evaluate`.

    Raises:
        UserError: the run or a photo cannot be used, or the task takes no such views.
    """
    from jaxft.predict import find_photos

    trained = _opened(run, checkpoint, model)
    task = trained.config.task.task(trained.config.dtype)
    if isinstance(photos, str | Path | Sequence):
        paths = [photos] if isinstance(photos, str | Path) else photos
        dataset = task.photos(find_photos([Path(path) for path in paths]), trained.classes)
    else:
        dataset = photos
    viewing = asked(tta, tta_scales, tta_iou, calibrated=calibrated).of_run(_directory(trained), trained.model)
    predictor, arrays = run_predictor(trained, task)
    with closing(predictor):
        predicting = through_views(predictor, task, dataset, viewing)
        return task.entries(dataset, dict(sorted(predicting(arrays, dataset), key=lambda pair: pair[0])))


def report(run: str | Path | Trained, how: Report = "full") -> Path:
    """Writes `report.html` into a run directory, what `jaxft report` does, and returns where it is.

    Args:
        run: a run directory, or what `fit` gave back or `load_run` opened.
        how: full has photos and, of a classifier, where it looks; photos has no more than them, plain none. Datasets of
            your own are not described by the run, so that a page has none of their photos.

    Raises:
        UserError: it is no run directory, or cannot be written.
    """
    from jaxft.pages.making import report as written

    directory = RunDirectory.at(run) if isinstance(run, str | PurePath) else _directory(run)
    return written(directory, how)


def _opened(run: str | Path | Trained, checkpoint: Which | None, model: nnx.Module | None) -> Trained:
    return load_run(run, checkpoint=checkpoint, model=model) if isinstance(run, str | PurePath) else run


def _directory(run: Trained) -> RunDirectory:
    return run.directory if isinstance(run, FinishedRun) else RunDirectory.at(cast(Fitted, run).path)
