"""What a hub's client raises besides the errors of bus and store."""


class HubError(Exception):
    """Base; the message says what is the case and what to do."""


class RefusedError(HubError):
    """The hub said no. Nothing was changed; `code` is the machine's word, `reason` a person's."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason or code)
        self.code = code
        self.reason = reason


class NoAnswerError(HubError):
    """The hub did not answer in time. What was asked for may still be done."""


class NotThereError(HubError):
    """The hub holds no such experiment, model or dead letter."""


class UnusableError(HubError):
    """What was given cannot be used: a profile without the address that is needed, a model file that has changed."""


def unknown_experiment(experiment: str) -> NotThereError:
    return NotThereError(f"there is no experiment '{experiment}' at this hub; wardround list shows what there is")
