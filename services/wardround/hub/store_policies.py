"""What each login may do in the object store, as policies in the language of S3.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/security_iam_service-with-iam.html
"""

from collections.abc import Iterable, Sequence

from wardround.runtime.store.s3_probe import PROBE_BUCKET, PROBE_PREFIX
from wardround_messages.names import MODELS_BUCKET, Task
from wardround_messages.topology import OPERATOR, topology

Statement = dict[str, object]
Policy = dict[str, object]

_ARN = "arn:aws:s3:::"
_ALL_BUCKETS = "wr-*"

# `*` and `?` also stand for `/`. Patterns are as narrow as keys are, so that the key of a site that is called `global`
# or `journal` looks like nobody else's.
_JOURNAL = "journal/????????.json"
_MODELS = "global/r??????/????????????????.safetensors"
_RESULTS = "results/c????????.json"
_FIGURES = "figures/r??????.json"
_CONSENTS = "consent/*/????????????????-??.json"
_ANSWERS = "answers/r??????/*/a??.json"
_UPDATES = "updates/r??????/*"
_READABLE = (_JOURNAL, _CONSENTS, _ANSWERS, _MODELS, _RESULTS, _FIGURES)
_LISTED = tuple(f"{folder}/*" for folder in ("journal", "consent", "answers", "global", "results", "figures"))

_GET = ("s3:GetObject",)
_PUT = ("s3:PutObject", "s3:AbortMultipartUpload")
_DELETE = ("s3:DeleteObject", "s3:DeleteObjectVersion")
_LIST = ("s3:ListBucket",)


def store_policies(sites: Sequence[str], researchers: Sequence[str]) -> dict[str, Policy]:
    """The policy of every login, by its name.

    Raises:
        ValueError: a name is not an id, is reserved, or stands for two logins.
    """
    topology(tuple(sites), tuple(researchers))  # the same names are logins of the broker
    return {
        "coordinator": coordinator(),
        "aggregator": aggregator(),
        "metrics": metrics(),
        OPERATOR: operator(),
        **{site: site_policy(site) for site in sites},
        **{name: researcher() for name in researchers},
    }


def coordinator() -> Policy:
    """Makes buckets and has them announced, decides in the journal, brings the first model, prunes."""
    return _policy(
        _allow(("s3:ListAllMyBuckets",), ["*"]),
        _allow(("s3:CreateBucket", "s3:PutBucketNotification", *_LIST), [_ALL_BUCKETS]),
        _allow(_GET, [*_in_experiments(_JOURNAL, _CONSENTS, _ANSWERS, _MODELS, _RESULTS), f"{MODELS_BUCKET}/*"]),
        _allow(_PUT, _in_experiments(_JOURNAL, _MODELS.replace("r??????", "r000000"))),
        _allow(_DELETE, _in_experiments(_UPDATES, _MODELS)),
        _allow((*_GET, *_PUT, *_DELETE), [f"{PROBE_BUCKET}/{PROBE_PREFIX}*"]),
        _deny(_DELETE, _in_experiments(_JOURNAL, _CONSENTS, _ANSWERS, _RESULTS)),
    )


def aggregator() -> Policy:
    """Reads what a step closed with, writes models and results."""
    return _policy(
        _allow(_LIST, [_ALL_BUCKETS]),  # else an absent result would be one that is not to be seen
        _allow(_GET, _in_experiments(_JOURNAL, _UPDATES, _MODELS, _RESULTS)),
        _allow(_PUT, _in_experiments(_MODELS, _RESULTS)),
        _deny(_DELETE, ["*"]),
    )


def metrics() -> Policy:
    """Reads the journal and what figures are made of, writes the figures and shows them."""
    return _policy(
        _allow(("s3:ListAllMyBuckets",), ["*"]),
        _allow(_LIST, [_ALL_BUCKETS]),
        _allow(_GET, _in_experiments(_JOURNAL, _ANSWERS, _RESULTS, _FIGURES)),
        _allow(_PUT, _in_experiments(_FIGURES)),
        _deny(_DELETE, ["*"]),
    )


def operator() -> Policy:
    """Looks at whatever is not a clinic's update, and changes nothing."""
    return _policy(*_reading(), _deny((*_PUT, *_DELETE), ["*"]))


def researcher() -> Policy:
    """Looks at whatever is not a clinic's update, and brings models."""
    return _policy(
        *_reading(),
        _allow(("s3:CreateBucket", *_LIST), [MODELS_BUCKET]),
        _allow((*_GET, *_PUT), [f"{MODELS_BUCKET}/*"]),
        _deny(_PUT, _in_experiments(*_READABLE, _UPDATES)),
        _deny(_DELETE, ["*"]),
    )


def site_policy(site: str) -> Policy:
    """Reads the models and the manifest, and writes what is its own. It lists nothing: what is not there is refused."""
    own = _in_experiments(
        f"consent/{site}/*",
        f"updates/r??????/{site}/*",
        *(f"answers/r??????/{task}/{site}/*" for task in Task),
    )
    return _policy(
        _allow(_GET, _in_experiments(_MODELS, "journal/00000000.json")),
        _allow((*_GET, *_PUT), own),
        _deny(_PUT, _in_experiments(_JOURNAL, _MODELS, _RESULTS, _FIGURES)),
        _deny((*_DELETE, *_LIST), ["*"]),
    )


def _reading() -> Iterable[Statement]:
    yield _allow(("s3:ListAllMyBuckets",), ["*"])
    yield _allow(_LIST, [_ALL_BUCKETS], {"StringLike": {"s3:prefix": [*_LISTED]}})
    yield _allow(_GET, [*_in_experiments(*_READABLE), f"{MODELS_BUCKET}/*"])
    yield _deny(_GET, _in_experiments(_UPDATES))


def _in_experiments(*keys: str) -> list[str]:
    return [f"{_ALL_BUCKETS}/{key}" for key in keys]


def _allow(actions: Sequence[str], resources: Sequence[str], condition: Statement | None = None) -> Statement:
    conditions = {} if condition is None else {"Condition": condition}
    return {"Effect": "Allow", **_what(actions, resources), **conditions}


def _deny(actions: Sequence[str], resources: Sequence[str]) -> Statement:
    return {"Effect": "Deny", **_what(actions, resources)}


def _what(actions: Sequence[str], resources: Sequence[str]) -> Statement:
    return {"Action": [*actions], "Resource": [_ARN + resource for resource in resources]}


def _policy(*statements: Statement) -> Policy:
    # Without this a login may make further keys of its own, which outlive a change of its secret.
    no_keys = {"Effect": "Deny", "Action": ["admin:*"]}
    return {"Version": "2012-10-17", "Statement": [*statements, no_keys]}
