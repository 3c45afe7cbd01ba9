"""Figures in words that a person reads at a glance."""


def size_text(size: int) -> str:
    """`4.8 MB`, in powers of ten."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 99.95 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def size_short(size: int) -> str:
    """`4.8M`: the same for a narrow column."""
    return size_text(size).replace(" ", "").removesuffix("B") or "0"


def transfer_text(done: int, of: int, per_second: float | None) -> str:
    """`42 % of 1.2 GB, 2.0 MB/s, about 6 m left`; without a speed the rest is not known."""
    said = f"{done_text(done, of)} of {size_text(of)}"
    if per_second is None or per_second < 1:
        return said
    left = duration_text((of - done) / per_second)
    return f"{said}, {size_text(round(per_second))}/s" + (f", about {left} left" if done < of else "")


def done_text(done: int, of: int) -> str:
    """`42 %`, rounded down: nothing is through before it is."""
    return f"{min(done, of) * 100 // of if of else 100} %"


def clinics_text(number: int) -> str:
    return "1 clinic" if number == 1 else f"{number} clinics"


def duration_text(seconds: float) -> str:
    """The two largest units: `0.2 s`, `12 s`, `14 m 02 s`, `1 h 52 m`, `3 d 04 h`; a second one of none is left out."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    for unit, length, below, part in (("d", 86_400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest:02d} {below}" if rest else "")
    return f"{whole} s"


def span_text(seconds: float) -> str:
    """The largest unit alone: `2s`, `31m`, `5h`, `3d`."""
    whole = max(int(seconds), 0)
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}"
    return f"{whole}s"


def short(sha256: str) -> str:
    """Enough of a digest to tell it from its neighbours."""
    return sha256[:8]
