"""Faster R-CNN with a ResNet-50 and a feature pyramid, from MMDetection's COCO weights to classes of your own.

    python -m jaxft.train --config configs/faster_rcnn_r50_fpn_coco_to_custom.py --data.root FOLDER

FOLDER holds annotations/instances_train.json and instances_test.json in COCO's format and the photos in train/ and
test/; their names can be given by --data.annotation-file and --data.image-folder. The detector, the frozen first stage,
BatchNorm on its ImageNet statistics, and the scales are those of MMDetection's faster-rcnn_r50_fpn_1x_coco.py; the rate
is its 0.02 for 16 photos in proportion, and lower by half because the weights have been trained already. Hardware: an
accelerator with 16 GB. Take the model home with

    python -m jaxft.export --run runs/faster_rcnn_r50_fpn_coco_to_custom --output model.pth

Expected mAP: that of your data; the weights it starts from have 37.4 on COCO's val2017 (MMDetection's
configs/faster_rcnn/metafile.yml). Only a thin form of it has been run with jaxft.
"""

from typing import Any

from jaxft.config import Config, Data, Detection, Model, Optimizer, Phase, Pretrained, Rule, Schedule

ALIGN: dict[str, Any] = {
    "type": "SingleRoIExtractor",
    "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
    "out_channels": 256,
    "featmap_strides": [4, 8, 16, 32],
}
SAMPLES: dict[str, Any] = {"type": "RandomSampler", "num": 256, "pos_fraction": 0.5, "neg_pos_ub": -1}

detector: dict[str, Any] = {
    "type": "FasterRCNN",
    "backbone": {
        "type": "ResNet",
        "depth": 50,
        "num_stages": 4,
        "out_indices": [0, 1, 2, 3],
        "norm_cfg": {"type": "BN"},
        "style": "pytorch",
    },
    "neck": {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": 256, "num_outs": 5},
    "rpn_head": {
        "type": "RPNHead",
        "in_channels": 256,
        "feat_channels": 256,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "scales": [8],
            "ratios": [0.5, 1.0, 2.0],
            "strides": [4, 8, 16, 32, 64],
        },
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": [1.0] * 4},
        "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
    },
    "roi_head": {
        "type": "StandardRoIHead",
        "bbox_roi_extractor": ALIGN,
        "bbox_head": {
            "type": "Shared2FCBBoxHead",
            "in_channels": 256,
            "fc_out_channels": 1024,
            "roi_feat_size": 7,
            "num_classes": 80,  # as many as the data have, in a run
            "bbox_coder": {
                "type": "DeltaXYWHBBoxCoder",
                "target_means": [0.0] * 4,
                "target_stds": [0.1, 0.1, 0.2, 0.2],
            },
            "reg_class_agnostic": False,
            "loss_cls": {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
    },
    "train_cfg": {
        "rpn": {
            "assigner": {
                "type": "MaxIoUAssigner",
                "pos_iou_thr": 0.7,
                "neg_iou_thr": 0.3,
                "min_pos_iou": 0.3,
                "match_low_quality": True,
                "ignore_iof_thr": -1,
            },
            "sampler": SAMPLES | {"add_gt_as_proposals": False},
            "allowed_border": -1,
            "pos_weight": -1,
        },
        "rpn_proposal": {
            "nms_pre": 2000,
            "max_per_img": 1000,
            "nms": {"type": "nms", "iou_threshold": 0.7},
            "min_bbox_size": 0,
        },
        "rcnn": {
            "assigner": {
                "type": "MaxIoUAssigner",
                "pos_iou_thr": 0.5,
                "neg_iou_thr": 0.5,
                "min_pos_iou": 0.5,
                "match_low_quality": False,
                "ignore_iof_thr": -1,
            },
            "sampler": SAMPLES | {"num": 512, "pos_fraction": 0.25, "add_gt_as_proposals": True},
            "pos_weight": -1,
        },
    },
    "test_cfg": {
        "rpn": {
            "nms_pre": 1000,
            "max_per_img": 1000,
            "nms": {"type": "nms", "iou_threshold": 0.7},
            "min_bbox_size": 0,
        },
        "rcnn": {"score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 100},
    },
}

# MMDetection's frozen_stages=1; its norm_eval=True is the phase's batch_norm.
RULES = (
    Rule(pattern="backbone.conv1", frozen=True),
    Rule(pattern="backbone.bn1", frozen=True),
    Rule(pattern="backbone.layer1", frozen=True),
    Rule(pattern="*"),
)

config = Config(
    model=Model(mmdet=detector),
    pretrained=Pretrained(
        source="https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r50_fpn_1x_coco/"
        "faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
        skip=("@head",),
    ),
    data=Data(source="coco", root="data/custom", batch_size=8),
    task=Detection(scales=((1333, 800),), test_scale=(1333, 800)),
    optimizer=Optimizer(learning_rate=0.005, momentum=0.9, weight_decay=1e-4),
    phases=(
        Phase(
            epochs=12,
            rules=RULES,
            schedule=Schedule(decay="multistep", milestones=(8, 11), warmup=500, warmup_unit="step"),
            batch_norm="running",
        ),
    ),
)
