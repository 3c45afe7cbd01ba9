"""A figure as it stands in the page, as SVG, and as it lies beside it, as a PNG file."""

import re
from html import escape
from io import BytesIO, StringIO

from matplotlib.figure import Figure

PNG_DPI = 200
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
# What matplotlib writes besides the picture: a document of its own, notes, and a style for everything on the page.
_NOT_THE_PICTURE = re.compile(r"<metadata>.*?</metadata>|<!--.*?-->|<style\b.*?</style>", re.DOTALL)
_IDS = re.compile(r'\b(id="|href="#|url\(#)')
_OPENING = re.compile(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', re.DOTALL)


def svg_of(sheet: Figure, name: str, alt: str) -> str:
    """The figure as an element of a page. Its ids begin with `name`: two figures would have the same ones else."""
    written = StringIO()
    sheet.savefig(written, format="svg", metadata=NO_METADATA, transparent=True)
    text = _NOT_THE_PICTURE.sub("", written.getvalue()[written.getvalue().index("<svg") :])
    text = _IDS.sub(rf"\g<1>{name}-", text)
    width, height = sheet.bbox.width, sheet.bbox.height
    label = escape(alt, quote=True)
    opening = f'<svg role="img" aria-label="{label}" viewBox="\\1" width="{width:g}pt" height="{height:g}pt">'
    text = _OPENING.sub(lambda found: opening.replace("\\1", found[1]), text, count=1)
    return re.sub(r">\s+<", "><", text).replace("xlink:href", "href").strip()


def png_of(sheet: Figure) -> bytes:
    """At 200 dots an inch, on white."""
    written = BytesIO()
    sheet.savefig(written, format="png", dpi=PNG_DPI, metadata={"Software": None}, facecolor="white")
    return written.getvalue()
