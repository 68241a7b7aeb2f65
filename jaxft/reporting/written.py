"""Numbers as a person reads them."""


def written(count: float) -> str:
    """Bytes as a person reads them: `46.8 MB`."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
