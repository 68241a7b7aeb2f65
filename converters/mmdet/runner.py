"""What is left at the top of an MMDetection configuration, once all that decides about a run is read."""

import difflib

from converters.mmdet.section import ConfigError, Section, flag

# What MMEngine's runner reads of a file. Anything else at its top is a variable.
RUNNER = (
    *("model", "work_dir", "train_dataloader", "val_dataloader", "test_dataloader", "train_cfg", "val_cfg", "test_cfg"),
    *("auto_scale_lr", "optim_wrapper", "param_scheduler", "val_evaluator", "test_evaluator", "default_hooks"),
    *("custom_hooks", "data_preprocessor", "load_from", "resume", "launcher", "env_cfg", "log_processor", "log_level"),
    *("visualizer", "default_scope", "randomness", "experiment_name", "model_wrapper_cfg", "sync_bn", "compile"),
    *("find_unused_parameters", "activation_checkpointing", "efficient_conv_bn_eval"),
)
# MMDetection 2's, which its version 3 does not read.
OLDER = (
    *("data", "optimizer", "optimizer_config", "lr_config", "momentum_config", "runner", "total_epochs", "workflow"),
    *("evaluation", "checkpoint_config", "log_config", "dist_params"),
)
REASONS = {
    "work_dir": "--workdir says where a run is written",
    "test_cfg": "an evaluation has one loop",
    "test_evaluator": "every split is judged as the validation split is",
    "launcher": "--distributed joins the processes of a run",
    "env_cfg": "it sets up CUDA, NCCL and OpenCV",
    "log_processor": "jaxft's logs have one form and one place",
    "log_level": "jaxft's logs have one form and one place",
    "visualizer": "jaxft draws what its own settings say",
    "vis_backends": "jaxft draws what its own settings say",
    "default_scope": "names are looked up among those of MMDetection that jaxft builds",
    "experiment_name": "a run is called after its configuration",
    "tta_model": "evaluate and predict are asked for test-time augmentation by --tta",
    "tta_pipeline": "evaluate and predict are asked for test-time augmentation by --tta",
    "custom_imports": "no modules are imported; whatever jaxft does not build is refused by its name",
    "sync_bn": "statistics are those of the whole batch on all devices",
    "find_unused_parameters": "it is PyTorch's way of sharing gradients",
    "activation_checkpointing": "computing twice would only save memory",
    "efficient_conv_bn_eval": "it says how PyTorch computes the same",
    "compile": "JAX compiles every step",
}
VARIABLE = "a variable of the file, which MMEngine's runner does not read"
ALIKE = 0.88  # from which on two names are taken for one and a slip of the pen


def close(top: Section) -> None:
    """Passes over what is left, with a reason, or refuses it by name."""
    if top.take("resume", flag, False):
        raise top.refused("resume", True, "go on with a run by --resume")
    if top.has("model_wrapper_cfg"):
        wrapper = top.section("model_wrapper_cfg")
        wrapper.type(["MMDistributedDataParallel", "DistributedDataParallel"])
        options = ("broadcast_buffers", "find_unused_parameters", "static_graph", "gradient_as_bucket_view")
        wrapper.ignore(*options, "bucket_cap_mb", "detect_anomalous_params", because=REASONS["find_unused_parameters"])
        wrapper.done()
    top.elsewhere("model_wrapper_cfg")
    for name, reason in REASONS.items():
        top.ignore(name, because=reason)
    for name in list(top.values):
        if not top.has(name) or name in RUNNER:
            continue
        if name in OLDER:
            raise ConfigError(
                name,
                f"{name} of MMDetection 2",
                f"{name} is a setting of MMDetection 2, which version 3 does not read.",
            )
        if near := difflib.get_close_matches(name, RUNNER, n=1, cutoff=ALIKE):
            raise ConfigError(name, f"{name} unknown", f"{name} is no setting; did you mean {near[0]}?")
        top.ignore(name, because=VARIABLE)
    top.done()
