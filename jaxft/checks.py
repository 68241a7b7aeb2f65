"""What is known to be wrong with a run from paths alone, before JAX is imported: within a second, whatever the data."""

from jaxft.adapters import Lora
from jaxft.config import Config, Data, Distillation, Optimizer, Pretrained, completed, replace
from jaxft.data.download import check_root
from jaxft.errors import UserError
from jaxft.fields import differences
from jaxft.optimization import READERS
from jaxft.places import check_writable, in_bucket
from jaxft.reporting.trackers import check_tracker
from jaxft.run import RunDirectory, named_run


def check_places(config: Config, run: RunDirectory | None, *, resume: bool = False, own_data: bool = False) -> None:
    """Looks whether a run could be written, and whether its checkpoint and its data are there.

    Args:
        run: where it would be written; None for a dry run, which writes nothing.
        resume: go on with the run, where there is one; it needs its first weights no more.
        own_data: the datasets are a user's own.

    Raises:
        UserError: something is in the way, or missing.
    """
    taught = any(path.startswith("distillation.") for path in config.task.implied())
    if taught and (given := differences(config.distillation, Distillation())):
        raise UserError(
            f"distillation.{next(iter(given))} is given, but task.incremental names a teacher, whose losses are its "
            "own; leave distillation out."
        )
    config = completed(config)
    if run is not None and resume and run.exists():
        if in_bucket(run.path):
            check_writable(run.path)
        own_data = own_data or "datasets" in run.own()
    else:
        if run is not None:
            run.refuse_existing()
            check_writable(run.path)
        if config.pretrained.source is not None:
            check_source(config.pretrained.source)
        check_used(config)
    if config.distillation.teacher is not None:
        check_source(config.distillation.teacher)
    check_tracker(config.tracker)
    if not own_data:
        check_root(config.data)
    new = not (run is not None and resume and run.exists())
    for name in ("holdout", "folds", "subset", "balance") if own_data and new else ():
        if (found := getattr(config.data, name)) != getattr(Data(), name):
            raise UserError(
                f"data.{name} is {found!r}, but the datasets are your own, which nothing cuts; leave data.{name} out."
            )


def check_source(source: str) -> None:
    """Raises a UserError where first weights are not there, as far as that is known without a network."""
    if (run := named_run(source)) is not None:
        RunDirectory.at(run[0]).check()
        return
    from converters.sources import check

    check(source)


def check_used(config: Config) -> None:
    """Raises a UserError where a field is given that nothing would read, by its name."""
    pretrained, optimizer = config.pretrained, config.optimizer
    implied = completed(replace(config, {"pretrained": Pretrained()})).pretrained
    if implied.source is not None and pretrained not in (Pretrained(), implied):
        name, (found, _) = next(iter(differences(pretrained, implied).items()))
        raise UserError(
            f"pretrained.{name} is {found!r}, but the weights come from {implied.source}, the old model that the task "
            'names; leave pretrained out (in a configuration that has it: "pretrained": Pretrained()).'
        )
    if pretrained.known_classes and not pretrained.transfer_head_rows:
        raise UserError(
            f"pretrained.known_classes is {pretrained.known_classes}, which says whose rows are taken, but "
            "pretrained.transfer_head_rows is not set; set it, or leave pretrained.known_classes out."
        )
    if pretrained.source is None and implied.source is None:
        for name in ("sha256", "prefix", "skip", "transfer_head_rows", "known_classes", "rename", "new_kernels"):
            if (found := getattr(pretrained, name)) != getattr(Pretrained(), name):
                raise UserError(
                    f"pretrained.{name} is {found!r}, but there is no checkpoint that it could speak of; name one by "
                    f"pretrained.source, or leave pretrained.{name} out."
                )
    if config.stored_features and not config.data.views:
        raise UserError(
            "stored_features keeps each way in which an example is augmented, but data.views is 0, which augments anew "
            "in every epoch; set data.views, to 1 without any augmentation, or to more with it."
        )
    _check_distillation(config)
    lora = config.model.lora
    if not lora.rank and (given := differences(lora, Lora())):
        name, (found, _) = next(iter(given.items()))
        raise UserError(
            f"model.lora.{name} is {found!r}, but model.lora.rank is 0, which adds nothing; set that, or leave "
            f"model.lora.{name} out."
        )
    if config.model.init and pretrained.new_kernels != "default":
        raise UserError(
            "model.init and pretrained.new_kernels both say how what is new is drawn; leave one of them out."
        )
    for name, readers in READERS.items():
        found, default = getattr(optimizer, name), getattr(Optimizer(), name)
        if optimizer.name not in readers and found != default:
            raise UserError(
                f"optimizer.{name} is {found!r}, which is for {', '.join(readers)} alone, but optimizer.name is "
                f"{optimizer.name!r}; set optimizer.{name} to {default!r}."
            )
    if config.ema.kind == "swa" and (config.ema.decay is not None or config.ema.warmup):
        raise UserError(
            "ema.kind is 'swa', a plain mean, which has neither a decay nor a warm-up; leave ema.decay and ema.warmup "
            "out, or set ema.kind to 'exponential'."
        )
    for section, switch in (("ema", "decay"), ("early_stopping", "patience")):
        fields, nothing = getattr(config, section), getattr(Config(), section)
        on = section == "ema" and config.ema.kept
        if not on and getattr(fields, switch) is None and (given := differences(fields, nothing)):
            name, (found, _) = next(iter(given.items()))
            raise UserError(
                f"{section}.{name} is {found!r}, but {section}.{switch} is None, which turns it off; set "
                f"{section}.{switch}, or leave {section}.{name} out."
            )
    if optimizer.moments != "float32" and optimizer.name in READERS["momentum"] and not optimizer.momentum:
        raise UserError(
            f"optimizer.moments is {optimizer.moments!r}, but {optimizer.name} without momentum keeps none; set "
            "optimizer.momentum, or leave optimizer.moments out."
        )
    if optimizer.nesterov and not optimizer.momentum:
        raise UserError("optimizer.nesterov is a form of momentum, but optimizer.momentum is 0; set that, too.")


def _check_distillation(config: Config) -> None:
    """Raises a UserError where something is said of a teacher that nothing would read."""
    fields = config.distillation
    if fields.teacher is None:
        for name, (found, _) in differences(fields, Distillation()).items():
            raise UserError(
                f"distillation.{name} is {found!r}, but there is no teacher; name one by distillation.teacher, "
                f"or leave distillation.{name} out."
            )
        return
    if not fields.weight and not fields.features:
        raise UserError(
            "distillation.weight is 0 and distillation.features names no layers, so that nothing is learned from "
            f"{fields.teacher}; give one of them, or leave distillation out."
        )
    if fields.known_classes and fields.weight and "distillation.teacher" not in config.task.implied():
        raise UserError(
            f"distillation.known_classes is {fields.known_classes}, but outputs of fewer classes are compared by "
            "task.incremental alone; leave it out, or set distillation.weight to 0 and name features."
        )
    if config.stored_features:
        raise UserError(
            "stored_features trains on what a frozen part puts out, but distillation.teacher sees the images; leave "
            "one of them out."
        )
    if fields.teacher_model is not None and (fields.teacher_model.lora.rank or fields.teacher_model.init):
        raise UserError(
            "distillation.teacher_model has lora or init, but all of a teacher comes from its weights; leave them out."
        )
