"""Generalised Focal Loss (GFL) with a ResNet-50 and a feature pyramid on COCO, from ImageNet weights.

    python -m jaxft.train --config configs/gfl_r50_fpn.py --data.root FOLDER

FOLDER has COCO's annotations/, train2017/ and val2017/. The recipe is MMDetection's gfl_r50_fpn_1x_coco.py: rate 0.01
for 16 photos, 12 epochs. Li et al. 2020, https://arxiv.org/abs/2006.04388. Hardware: accelerators with 16 GB for each
two photos of a batch.

Expected on val2017: mAP 40.2, MMDetection's own figure (its configs/gfl/metafile.yml). Only a thin form
of it has been run with jaxft.
"""

from typing import Any

from configs.faster_rcnn_r50_fpn_coco_to_custom import RULES, detector
from jaxft.config import Config, Data, Detection, Model, Optimizer, Phase, Pretrained, Schedule

gfl: dict[str, Any] = {
    "type": "GFL",
    "backbone": detector["backbone"],
    "neck": {
        "type": "FPN",
        "in_channels": [256, 512, 1024, 2048],
        "out_channels": 256,
        "start_level": 1,
        "add_extra_convs": "on_output",
        "num_outs": 5,
    },
    "bbox_head": {
        "type": "GFLHead",
        "num_classes": 80,
        "in_channels": 256,
        "stacked_convs": 4,
        "feat_channels": 256,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "ratios": [1.0],
            "octave_base_scale": 8,
            "scales_per_octave": 1,
            "strides": [8, 16, 32, 64, 128],
        },
        "loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True, "beta": 2.0, "loss_weight": 1.0},
        "loss_dfl": {"type": "DistributionFocalLoss", "loss_weight": 0.25},
        "reg_max": 16,
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 2.0},
    },
    "train_cfg": {"assigner": {"type": "ATSSAssigner", "topk": 9}, "allowed_border": -1, "pos_weight": -1},
    "test_cfg": {
        "nms_pre": 1000,
        "min_bbox_size": 0,
        "score_thr": 0.05,
        "nms": {"type": "nms", "iou_threshold": 0.6},
        "max_per_img": 100,
    },
}

config = Config(
    model=Model(mmdet=gfl),
    pretrained=Pretrained(
        source="torchvision://resnet50/IMAGENET1K_V1",
        rename={"": "backbone."},
        skip=("backbone.fc", "neck", "bbox_head"),
    ),
    data=Data(source="coco", root="data/coco", train="train2017", validation="val2017", batch_size=16),
    task=Detection(scales=((1333, 800),), test_scale=(1333, 800), keep_empty=False, min_side=32),
    optimizer=Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=1e-4),
    phases=(
        Phase(
            epochs=12,
            rules=RULES,
            schedule=Schedule(decay="multistep", milestones=(8, 11), warmup=500, warmup_unit="step"),
            batch_norm="running",
        ),
    ),
)
