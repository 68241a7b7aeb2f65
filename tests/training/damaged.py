"""`python -m tests.training.damaged RUN FOLDER COUNT SEED`: harms copies of a run at random and opens each of them.

Each copy is either refused in a sentence, or the model in it is the undamaged one, bit for bit.
"""

import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from jaxft import load_run, train
from jaxft.errors import UserError
from jaxft.models.paths import values
from tests.small import call, user_error


def harm(folder: Path, rng: random.Random) -> str:
    """Does one thing to a file or folder below a folder; what."""
    places = sorted(folder.rglob("*"))
    place = rng.choice([path for path in places if rng.random() < 0.1 or path.is_file()])
    if place.is_dir():
        shutil.rmtree(place)
        return f"{place} removed"
    data, kind = (
        place.read_bytes(),
        rng.choice(["removed", "cut", "emptied", "flipped", "longer", "zeroed", "replaced"]),
    )
    at = rng.randrange(max(len(data), 1))
    match kind:
        case "removed":
            place.unlink()
        case "cut":
            place.write_bytes(data[:at])
        case "emptied":
            place.write_bytes(b"")
        case "flipped":
            place.write_bytes(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
        case "longer":
            place.write_bytes(data + rng.randbytes(20))
        case "zeroed":
            place.write_bytes(data[:at] + bytes(min(16, len(data) - at)) + data[at + 16 :])
        case "replaced":
            place.write_bytes(rng.choice([path for path in places if path.is_file()]).read_bytes())
    return f"{place} {kind} at {at} of {len(data)}"


def model(run: Path, which: str) -> dict[str, bytes]:
    """The arrays of a run's model."""
    opened = load_run(run, checkpoint=which)  # type: ignore[arg-type]
    return {path: np.asarray(value).tobytes() for path, value in values(opened.model).items()}


def main(original: Path, folder: Path, count: int, seed: int) -> None:
    whole = {which: model(original, which) for which in ("best", "last")}
    ended: Counter[str] = Counter()
    for number in range(count):
        rng, run = random.Random(seed + number), folder / str(number)
        shutil.copytree(original, run)
        done = [harm(run / "checkpoints", rng) for _ in range(rng.choice([1, 1, 3]))]
        for which in whole:
            try:
                found, message = model(run, which), ""
            except UserError as error:
                found, message = whole[which], str(error)
            assert found == whole[which], (seed + number, done)
            assert not message or "is damaged" in message or "holds no" in message, (seed + number, done, message)
            ended[which, "refused" if message else "whole"] += 1
        result = call(train.main, "--workdir", run, "--resume")
        if result.code != 0:
            user_error(result)
        assert not result.err or result.code == 2, (seed + number, done, result)
        ended["resumed", result.code] += 1
        shutil.rmtree(run)
    print(dict(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
