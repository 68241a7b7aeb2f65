"""What is found in the photos of a split; a thread fills in masks while the device goes on, each process its share."""

import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from jaxft.processes import gathered
from jaxft.tasks.detection.found import Found, on_photo
from jaxft.tasks.detection.objects import ObjectSource
from jaxft.tasks.task import Prediction

WAITING = 64  # photos: a hundred masks of 28 x 28 are 300 kB, the codes that come of them a tenth


class Pasting:
    """Collects what is found in the photos of a source. Masks are kept as run-length codes alone."""

    def __init__(self, source: ObjectSource) -> None:
        self._source = source
        self._found: dict[int, Future[Found]] = {}
        self._waiting: deque[Future[Found]] = deque()
        # More of them are slower, since they wait for Python's lock: 36 photos took .61 s with one and .78 s with two.
        self._thread = ThreadPoolExecutor(1, "masks")
        self.masks = False

    def add(self, index: int, prediction: Prediction) -> None:
        """Takes what `DetectionTask.predict` finds in one photo; every process takes all photos."""
        self.masks |= "masks" in prediction
        own = index % jax.process_count() == jax.process_index()
        if len(self._waiting) == WAITING:
            self._waiting.popleft().result()
        task = self._thread.submit(on_photo, prediction, self._source[index], masks=own)
        self._waiting.append(task)
        self._found[index] = task

    def all(self) -> dict[int, Found]:
        """What is found, by the position of the photo, the same on every process; waits for all of them."""
        found = {index: task.result() for index, task in self._found.items()}
        self._thread.shutdown()
        return self._shared(found) if self.masks and jax.process_count() > 1 else found

    def _shared(self, found: dict[int, Found]) -> dict[int, Found]:
        own = {index: [code["counts"] for code in objects.codes] for index, objects in found.items() if objects.codes}
        complete = dict(found)
        for part in gathered(json.dumps(own).encode()):
            for index, texts in json.loads(part).items():
                example = self._source[int(index)]
                codes = tuple({"size": [example.height, example.width], "counts": text} for text in texts)
                complete[int(index)] = found[int(index)]._replace(codes=codes)
        return complete
