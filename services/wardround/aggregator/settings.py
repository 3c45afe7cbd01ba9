"""The aggregator's settings: `aggregator.toml`."""

from typing import Annotated

from pydantic import Field

from wardround.aggregator.app import SLICE_SIZE
from wardround.runtime.http_settings import HttpSettings, usual_port
from wardround.runtime.secrets import FilePath
from wardround.runtime.service_settings import ServiceSettings


class AggregatorSettings(ServiceSettings):
    """`work` is a folder of its own with room for two models; `slice_size` (bytes) bounds memory, at some ten times as
    much."""

    http: Annotated[HttpSettings, usual_port(8082)] = HttpSettings(port=8082)
    work: FilePath
    slice_size: Annotated[int, Field(ge=2**16, le=2**28)] = SLICE_SIZE
