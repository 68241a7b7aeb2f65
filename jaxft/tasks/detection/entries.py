"""Entries of annotation files against what their fields must be, and the sentences for what is not so."""

import json
from typing import Annotated, Any

import pydantic

FARTHEST = 10_000_000
"""No number of a box is larger, pixels."""
Number = Annotated[float, pydantic.Field(strict=True, allow_inf_nan=False, ge=-FARTHEST, le=FARTHEST)]
Whole = Annotated[float, pydantic.Field(strict=True, multiple_of=1, ge=-(2.0**63), le=2.0**63)]
"""An id: a number as COCO writes it, or one that is as whole, `1.0`."""
Side = Annotated[float, pydantic.Field(strict=True, multiple_of=1, ge=1, le=1_000_000)]
Text = Annotated[str, pydantic.Field(strict=True, min_length=1)]


class Form:
    """What an entry must be.

    Args:
        schema: the fields; the description of each says in words what is expected.
    """

    def __init__(self, schema: type[pydantic.BaseModel]) -> None:
        self._schema = schema
        self._expected = {name: field.description for name, field in schema.model_fields.items()}

    def problem(self, entry: object) -> str | None:
        """What is wrong with an entry: the rest of a sentence about it. Fields without a meaning here are fine."""
        # To ask first is several times as fast as to make an instance, of which nothing is used.
        return None if self._schema.__pydantic_validator__.isinstance_python(entry) else self.read(entry)[1]

    def read(self, entry: object) -> tuple[Any, str | None]:
        """The entry with its fields converted, or what `problem` says of it."""
        try:
            return self._schema.model_validate(entry), None
        except pydantic.ValidationError as error:
            return None, self._explained(entry, error)

    def _explained(self, entry: object, error: pydantic.ValidationError) -> str:
        if not isinstance(entry, dict):
            return f"is {found(entry)}; expected an object"
        # A list or a union has several errors, which are one mistake of the field.
        fields = list(dict.fromkeys(problem["loc"][0] for problem in error.errors(include_url=False)))
        missing = [str(name) for name in fields if name not in entry]
        parts = [f"has no {', '.join(missing)}"] if missing else []
        parts += [
            f"has {name} {found(entry[name])}; expected {self._expected[str(name)]}" for name in fields if name in entry
        ]
        return ", and ".join(parts)


def found(value: object) -> str:
    """A value of a JSON file in a few words, with its kind where that could be overlooked."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):  # Python writes no whole number of more than 4,300 digits
        text = "a number of thousands of digits"
    text = text if len(text) <= 60 else f"{text[:57]}..."
    kinds = ((str, " (text)"), (list, " (a list)"), (dict, " (an object)"))
    return text + next((words for kind, words in kinds if isinstance(value, kind)), "")
