"""How far a model falls behind its teacher in what it is to keep, as figures beside those of an evaluation."""

from collections.abc import Iterable, Mapping

GROUPS = "teacher", "forgotten"
"""What goes before the names of the teacher's figures, and of what they have more than the model's."""


def forgotten_names(kept: str, names: Iterable[str]) -> list[str]:
    """The names of the figures that `with_forgotten` adds to those of `names`."""
    rest = [name.removeprefix(kept) for name in names if kept and name.startswith(kept)]
    return [f"{group}/{name}" for group in GROUPS for name in rest]


def with_forgotten(kept: str, teacher: Mapping[str, float], metrics: Mapping[str, float]) -> dict[str, float]:
    """The figures of a model, and for each that begins with `kept` (such as `old/`) and that its teacher has, too: the
    teacher's, `teacher/NAME`, and the teacher's less the model's, `forgotten/NAME`, in the same units."""
    both = {name.removeprefix(kept): (teacher[name], metrics[name]) for name in metrics if name in teacher}
    told = {f"{GROUPS[0]}/{name}": theirs for name, (theirs, _) in both.items()}
    return {**metrics, **told, **{f"{GROUPS[1]}/{name}": theirs - ours for name, (theirs, ours) in both.items()}}
