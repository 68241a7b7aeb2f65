"""Hot dog or not: ResNet-18 fine-tuned by the recipe of Dive into Deep Learning.

    python -m jaxft.train --config configs/hotdog.py

Weights from torchvision and 1,400 photos from d2l, both downloaded. Published: about 94 % on the test photos after five
epochs (https://d2l.ai, chapter "Fine-Tuning"); with random first weights (`hotdog_scratch.py`) about 85 %. Any other
classifier of torchvision takes two words, since the head goes by its role:

    python -m jaxft.train --config configs/hotdog.py --model.name swin_t --pretrained.source torchvision://swin_t
"""

from jaxft.config import Config, Data, Optimizer, Phase, Pretrained, Rule

config = Config(
    pretrained=Pretrained(source="torchvision://resnet18/IMAGENET1K_V1", skip=("@head",), new_kernels="xavier_uniform"),
    data=Data(
        root="data/hotdog",
        url="http://d2l-data.s3-accelerate.amazonaws.com/hotdog.zip",
        sha1="fba480ffa8aa7e0febbb511d181409f899b9baa5",
    ),
    optimizer=Optimizer(learning_rate=0.01, weight_decay=1e-3),
    phases=(Phase(epochs=5, rules=(Rule(pattern="@head", lr_scale=10.0), Rule(pattern="*"))),),
)
