"""JSON Schemas of every message and object, for whoever speaks or reads them in another language."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from wardround_messages.commands import COMMAND_TYPES
from wardround_messages.envelope import Envelope
from wardround_messages.events import EVENT_TYPES, EntryRecorded
from wardround_messages.figures import Figures
from wardround_messages.journal import JournalEntry
from wardround_messages.manifest import Manifest
from wardround_messages.messages import Message
from wardround_messages.objects import Answer, Consent, Result
from wardround_messages.parts import TrainerDescription
from wardround_messages.task_folder import Job, MetricLine, ProgressLine, TaskResult

DIALECT = "https://json-schema.org/draft/2020-12/schema"

BODIES: tuple[type[Message], ...] = (*COMMAND_TYPES, *EVENT_TYPES, EntryRecorded)
OBJECTS: tuple[type[BaseModel], ...] = (
    Envelope,
    Manifest,
    JournalEntry,
    Consent,
    Answer,
    Result,
    Figures,
    Job,
    TaskResult,
    ProgressLine,
    MetricLine,
    TrainerDescription,
)


class _Plain(GenerateJsonSchema):
    """No titles that repeat the field's name; unions as `anyOf`, for their members tell themselves apart."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        union = super().tagged_union_schema(schema)
        union.pop("discriminator", None)
        if "oneOf" in union:
            union["anyOf"] = union.pop("oneOf")
        return union


def schemas() -> dict[str, JsonSchemaValue]:
    """A schema that stands alone for each message and object, by the name of its model."""
    return {
        model.__name__: {"$schema": DIALECT, **model.model_json_schema(schema_generator=_Plain)}
        for model in (*BODIES, *OBJECTS)
    }


def shared_schemas(models: Sequence[type[BaseModel]], ref_template: str) -> dict[str, JsonSchemaValue]:
    """One set of schemas for all the models and their parts, which refer to each other by `ref_template`."""
    _, found = models_json_schema(
        [(model, "validation") for model in models], ref_template=ref_template, schema_generator=_Plain
    )
    return dict(found["$defs"])
