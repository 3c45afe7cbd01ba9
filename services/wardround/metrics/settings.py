"""The settings of the metrics service: `metrics.toml`."""

from typing import Annotated

from pydantic import Field

from wardround.runtime.http_settings import HttpSettings, usual_port
from wardround.runtime.service_settings import ServiceSettings


class MetricsSettings(ServiceSettings):
    """Of the experiments that ended, `keep_ended` are kept at hand; the others are read again when asked for."""

    http: Annotated[HttpSettings, usual_port(8080)] = HttpSettings(port=8080)
    keep_ended: Annotated[int, Field(ge=0, le=10_000)] = 100
