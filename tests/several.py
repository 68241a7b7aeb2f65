"""`python -m tests.several COMMANDS`: commands of jaxft in turn in one process, which knows the small network.

COMMANDS is a JSON list of lists: the name of a command, and its arguments. Prints a list of what became of each: its
code, what it printed, and its errors.
"""

import importlib
import json
import sys

from tests.small import call

if __name__ == "__main__":
    ended = [
        call(importlib.import_module(f"jaxft.{command}").main, *arguments)
        for command, *arguments in json.loads(sys.argv[1])
    ]
    print(json.dumps([[result.code, result.out, result.err] for result in ended]))
