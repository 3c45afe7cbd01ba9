"""The coordinator's settings: `coordinator.toml`."""

from typing import Annotated

from pydantic import Field

from wardround.coordinator.app import RECONCILE_INTERVAL
from wardround.runtime.http_settings import HttpSettings, usual_port
from wardround.runtime.secrets import FilePath
from wardround.runtime.service_settings import ServiceSettings


class CoordinatorSettings(ServiceSettings):
    """`roster` is the hub's own file, which names the sites; `interval` (seconds) is how late an object is noticed at
    most when its announcement is lost."""

    http: Annotated[HttpSettings, usual_port(8081)] = HttpSettings(port=8081)
    roster: FilePath
    interval: Annotated[float, Field(strict=False, ge=1, le=600)] = RECONCILE_INTERVAL
