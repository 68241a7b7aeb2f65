"""Mask R-CNN from MMDetection's COCO weights to the eight classes of Cityscapes: its classic example of fine-tuning.

    python -m jaxft.train --config configs/mask_rcnn_r50_fpn_cityscapes.py --data.root FOLDER

FOLDER has leftImg8bit/ and annotations/ with the JSON files that MMDetection's tools/dataset_converters/cityscapes.py
writes. Rate 0.01 for 8 photos, a warm-up of 500 steps from a thousandth of it, 8 epochs, a tenth from the seventh on.
MMDetection's data set shows each photo eight times an epoch; for as many passes, --phases.0.epochs 64 and
--phases.0.schedule.milestones 56. Hardware: accelerators with 16 GB for each photo of a batch.

Expected on the validation photos: mAP 40.9 of boxes and 36.4 of masks, MMDetection's own figures for the 64 passes
(its configs/cityscapes/README.md). Only a thin form of it has been run with jaxft.
"""

from configs.faster_rcnn_r50_fpn_coco_to_custom import ALIGN, RULES, detector
from jaxft.config import Config, Data, Detection, Model, Optimizer, Phase, Pretrained, Schedule

box_head = detector["roi_head"]["bbox_head"] | {
    "num_classes": 8,
    "loss_bbox": {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1.0},
}
mask_head = {
    "type": "FCNMaskHead",
    "num_convs": 4,
    "in_channels": 256,
    "conv_out_channels": 256,
    "num_classes": 8,
    "loss_mask": {"type": "CrossEntropyLoss", "use_mask": True, "loss_weight": 1.0},
}
masked_detector = detector | {
    "type": "MaskRCNN",
    "roi_head": detector["roi_head"]
    | {
        "bbox_head": box_head,
        "mask_roi_extractor": ALIGN | {"roi_layer": {"type": "RoIAlign", "output_size": 14, "sampling_ratio": 0}},
        "mask_head": mask_head,
    },
    "train_cfg": detector["train_cfg"] | {"rcnn": detector["train_cfg"]["rcnn"] | {"mask_size": 28}},
    "test_cfg": detector["test_cfg"] | {"rcnn": detector["test_cfg"]["rcnn"] | {"mask_thr_binary": 0.5}},
}

config = Config(
    model=Model(mmdet=masked_detector),
    pretrained=Pretrained(
        source="https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_1x_coco/"
        "mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth",
        skip=("@head",),
    ),
    data=Data(
        source="coco",
        root="data/cityscapes",
        annotation_file="annotations/instancesonly_filtered_gtFine_{split}.json",
        image_folder="leftImg8bit/{split}",
        classes=("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
        validation="val",
        batch_size=8,
    ),
    task=Detection(
        scales=((2048, 800), (2048, 1024)),
        scale_draw="range",
        test_scale=(2048, 1024),
        masks=True,
        keep_empty=False,
        min_side=32,
    ),
    optimizer=Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=1e-4),
    phases=(
        Phase(
            epochs=8,
            rules=RULES,
            schedule=Schedule(decay="multistep", milestones=(7,), warmup=500, warmup_unit="step", warmup_factor=0.001),
            batch_norm="running",
        ),
    ),
)
