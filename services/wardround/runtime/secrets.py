"""Secrets are files that only their owner reads: never settings, arguments or environment."""

import stat
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from wardround.runtime.logging import conceal
from wardround.runtime.toml_file import Table, absolute

OTHERS = stat.S_IRWXG | stat.S_IRWXO

FilePath = Annotated[Path, BeforeValidator(absolute)]


class SecretUnreadableError(Exception):
    """A secret's file is gone, empty or readable by others."""


def _owners_only(path: Path) -> Path:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ValueError(f"the secret {path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(f"the secret {path} is not a file")
    if mode & OTHERS:
        raise ValueError(f"the secret {path} can be read by others; run: chmod 600 {path}")
    return path


class Secret(Table):
    """A secret is a file that only its owner reads. It is read when it is needed, and masked in logs from then on."""

    file: Annotated[FilePath, AfterValidator(_owners_only)]

    @model_validator(mode="before")
    @classmethod
    def _never_in_the_settings(cls, data: object) -> object:
        if not isinstance(data, dict):
            raise ValueError('must be { file = "..." }: secrets are files')
        return data

    def read(self) -> str:
        """The secret without the line end; raises `SecretUnreadableError`."""
        try:
            value = _owners_only(self.file).read_text().strip("\r\n")
        except (OSError, ValueError) as error:
            raise SecretUnreadableError(str(error)) from None
        if not value:
            raise SecretUnreadableError(f"the secret {self.file} is empty")
        conceal(value)
        return value


class StoreKey(Secret):
    """The access key of the object store: its id, and the file of its secret half."""

    id: Annotated[str, Field(min_length=1, max_length=128)]
