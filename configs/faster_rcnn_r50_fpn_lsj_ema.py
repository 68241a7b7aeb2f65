"""Faster R-CNN from COCO weights to classes of your own, with large-scale jitter and a moving average of the weights.

    python -m jaxft.train --config configs/faster_rcnn_r50_fpn_lsj_ema.py --data.root FOLDER

FOLDER is that of configs/faster_rcnn_r50_fpn_coco_to_custom.py, whose detector, weights and rate these are. Each photo
is resized by a factor of 0.1 to 2 and cut to 1024 x 1024 (Ghiasi et al. 2021, https://arxiv.org/abs/2012.07177, section
4), by the steps of MMDetection's common/lsj-100e_coco-detection.py; with so much change a model learns for longer, here
36 epochs. What is evaluated and exported is the average, with the default values of MMDetection's ExpMomentumEMA. For
masks, mosaics or copies of objects see docs/detection.md. Hardware: accelerators with 16 GB for each two photos of a
batch.

Expected mAP: that of your data. Only a thin form of it has been run with jaxft.
"""

from configs.faster_rcnn_r50_fpn_coco_to_custom import RULES, detector
from configs.faster_rcnn_r50_fpn_coco_to_custom import config as without_jitter
from jaxft.config import Config, Data, Detection, Ema, Model, Optimizer, Phase, Schedule
from jaxft.tasks.detection.transforms import FilterAnnotations, RandomCrop, RandomFlip, RandomResize

config = Config(
    model=Model(mmdet=detector),
    pretrained=without_jitter.pretrained,
    data=Data(source="coco", root="data/custom", batch_size=8),
    task=Detection(
        transforms=(
            RandomResize(scale=(1024, 1024), ratio_range=(0.1, 2.0), keep_ratio=True),
            RandomCrop(
                crop_size=(1024, 1024), crop_type="absolute_range", recompute_bbox=True, allow_negative_crop=True
            ),
            FilterAnnotations(min_gt_bbox_wh=(0.01, 0.01)),
            RandomFlip(prob=0.5),
        ),
        test_scale=(1333, 800),
    ),
    optimizer=Optimizer(learning_rate=0.005, momentum=0.9, weight_decay=1e-4),
    phases=(
        Phase(
            epochs=36,
            rules=RULES,
            schedule=Schedule(decay="multistep", milestones=(27, 33), warmup=500, warmup_unit="step"),
            batch_norm="running",
        ),
    ),
    ema=Ema(decay=0.9998, warmup=2000),
)
