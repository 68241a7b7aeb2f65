"""What the heads of a detector put out, beside live MMDetection's."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from converters.report import difference
from converters.verify import precision
from jaxft.models.detectors.dense.outputs import DenseOutputs
from jaxft.models.detectors.roi.regions import extract
from jaxft.models.paths import filled, values
from jaxft.models.streams import QUICK
from tests.models.detectors import parity


def compare_outputs(both: parity.Pair, batch: parity.Batch) -> dict[str, float]:
    """What is not equal of the levels that the heads see and of what each head puts out: relative differences.

    The limit is 1e-4 in float32 and 1e-9 in float64, but 1e-7 for boxes, which some heads of MMDetection make float32.
    Heads of regions look at the objects themselves; those of the second and further stages at the same boxes.
    """
    both.theirs.eval()
    both.ours.eval()
    if hasattr(both.theirs, "bbox_head"):
        both.theirs.bbox_head.training = True  # FCOS puts out other units in evaluation
    with torch.no_grad():
        theirs = their_outputs(both, batch)
    with precision(both.dtype):
        run = jax.jit(partial(our_outputs, both.ours), compiler_options=QUICK)
        boxes = jnp.asarray(batch.targets(False).boxes, both.dtype)
        ours = run(values(both.ours), jnp.asarray(batch.images, both.dtype), boxes)
    assert ours.keys() == theirs.keys()
    found = {}
    for name, arrays in ours.items():
        assert len(arrays) == len(theirs[name])
        pairs = [(x, y.numpy()) for x, y in zip(arrays, theirs[name], strict=True)]
        found[name] = max(difference(x, y.transpose(0, 2, 3, 1) if y.ndim == 4 else y) for x, y in pairs)
    print({name: f"{value:.1e}" for name, value in found.items()})
    limits = {"dense boxes": 1e-7} if both.dtype == "float64" else {}
    least = 1e-9 if both.dtype == "float64" else 1e-4
    return {name: value for name, value in found.items() if not value < limits.get(name, least)}


def our_outputs(template: Any, arrays: dict[str, Any], images: Any, boxes: Any) -> dict[str, tuple[Any, ...]]:
    """Maps and what the heads make of them; `boxes` `[N, R, 4]` are what heads of regions look at."""
    model: Any = filled(template, arrays)
    maps = model.feature_maps(images)
    dense = (model.rpn_head if hasattr(model, "rpn_head") else model.bbox_head)(maps)
    found = {"maps": maps} | {f"dense {kind}": part for kind, part in dense._asdict().items() if part}
    if hasattr(model, "roi_head"):
        used = jnp.ones(boxes.shape[:2], bool)
        features = extract(model.roi_head.bbox_roi_extractor, maps, boxes, used)
        for stage, head in enumerate(stages(model.roi_head.bbox_head)):
            logits, codes = head(features, used.reshape(-1))
            found[f"regions {stage}"] = (logits, codes.reshape(len(codes), -1))
        if model.roi_head.mask_head is not None:
            features = extract(model.roi_head.mask_roi_extractor, maps, boxes, used)
            for stage, head in enumerate(stages(model.roi_head.mask_head)):
                found[f"masks {stage}"] = (head(features, used.reshape(-1)),)
    return found


def their_outputs(both: parity.Pair, batch: parity.Batch) -> dict[str, tuple[torch.Tensor, ...]]:
    """The same of MMDetection's detector."""
    theirs = both.theirs
    maps = theirs.extract_feat(parity.torch_images(batch, both.dtype))
    dense = (theirs.rpn_head if hasattr(theirs, "rpn_head") else theirs.bbox_head)(maps)
    found = {"maps": tuple(maps)} | {
        f"dense {kind}": tuple(part) for kind, part in zip(DenseOutputs._fields, dense, strict=False)
    }
    if hasattr(theirs, "roi_head"):
        boxes = torch.from_numpy(np.array(batch.targets(False).boxes)).to(maps[0].dtype)
        rows = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])[:, None]
        rois = torch.cat([rows.to(boxes.dtype), boxes.reshape(-1, 4)], 1)
        for kind in ("bbox", "mask"):
            if not getattr(theirs.roi_head, f"with_{kind}"):
                continue
            extractors = stages(getattr(theirs.roi_head, f"{kind}_roi_extractor"))
            for stage, head in enumerate(stages(getattr(theirs.roi_head, f"{kind}_head"))):
                out = head(extractors[stage](maps[: extractors[stage].num_inputs], rois))
                found[f"{'regions' if kind == 'bbox' else 'masks'} {stage}"] = out if kind == "bbox" else (out,)
    return found


def stages(part: Any) -> list[Any]:
    """The parts of every stage, of which an R-CNN without a cascade has one."""
    return list(part) if isinstance(part, nnx.List | torch.nn.ModuleList) else [part]
