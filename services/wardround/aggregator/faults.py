"""Why a member is not merged."""

from dataclasses import dataclass

from wardround_messages.parts import LeftOut

DETAIL_AT_MOST = 400
# What only a failing disk or an attacker brings about: said to whoever watches over the hub.
SECURITY = frozenset({"digest", "missing", "size", "unexpected"})


@dataclass(frozen=True, slots=True)
class Fault:
    """`code` is one of a fixed set; `detail` names the tensor where there is one, and is safe to show."""

    code: str
    detail: str

    def of(self, site: str) -> LeftOut:
        return LeftOut(site=site, code=self.code, detail=self.detail[:DETAIL_AT_MOST])


class FaultyModelError(Exception):
    """A model whose bytes are missing, or are not what they should be."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.fault = Fault(code, detail)
