"""Which type is which model; what an agent of this version can read."""

from wardround_messages.commands import COMMAND_TYPES
from wardround_messages.events import EVENT_TYPES, EntryRecorded
from wardround_messages.journal import FACT_TYPES
from wardround_messages.messages import Message, type_name

FACT_EVENTS: dict[str, str] = {type_name(fact.noun, fact.verb, 1): fact.__name__ for fact in FACT_TYPES}

MESSAGES: dict[str, type[Message]] = {
    **{type_name(model.noun, model.verb, model.version): model for model in (*COMMAND_TYPES, *EVENT_TYPES)},
    **dict.fromkeys(FACT_EVENTS, EntryRecorded),
}

SITE_READS: tuple[str, ...] = tuple(
    sorted(type_name(model.noun, model.verb, model.version) for model in COMMAND_TYPES if model.service == "site-agent")
)
