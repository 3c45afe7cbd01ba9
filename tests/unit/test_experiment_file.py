"""What a researcher may write into an experiment file, and the one line she reads where it does not fit."""

import contextlib
import os
import time
from pathlib import Path

import pytest

from wardround.client.cli.errors import CommandError, Exit
from wardround.client.experiment_file import load_experiment, read_experiment
from wardround.client.models import GlobalModel, Which
from wardround.runtime.store.transfer import file_digest
from wardround.runtime.toml_file import bounded_toml
from wardround_messages.manifest import Brought, Forked

GOOD = """
schema = 1
id = "brain-tumour"
study = "glioma"
purpose = "Segment oedema, core and enhancing tumour"
seed = 7
[cohort]
sites = ["clinic-1", "clinic-2", "clinic-3"]
quorum = 2
enrol = "14d"
[rounds]
count = 10
deadline = "24h"
grace = "10m"
on_missed = "pause"
[model]
initial = "trainer"
best = { metric = "dice/mean", goal = "max" }
[strategy]
name = "fedavg"
weight = "cases"
[training]
trainer = "brain-tumour-unet"
dataset = "brain-mri"
epochs = 4
optimizer_state = "reset"
[training.parameters]
learning_rate = 0.001
batch_size = 2
[evaluation]
test = { site = "clinic-1", dataset = "brain-mri-test" }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(GOOD)
    return path


def test_a_file_becomes_a_manifest_with_durations_in_seconds(file: Path) -> None:
    manifest = load_experiment(file)
    assert (manifest.id, manifest.cohort.enrol, manifest.rounds.deadline, manifest.rounds.grace) == (
        "brain-tumour",
        14 * 86_400,
        86_400,
        600,
    )
    assert manifest.training.parameters == {"learning_rate": 0.001, "batch_size": 2}


def test_the_order_of_keys_does_not_change_the_digest(file: Path) -> None:
    before = load_experiment(file).sha256
    lines = GOOD.replace('name = "fedavg"\nweight = "cases"', 'weight = "cases"\nname = "fedavg"')
    file.write_text(lines)
    assert load_experiment(file).sha256 == before


def test_an_option_sets_a_key_and_the_id(file: Path) -> None:
    overrides = ["training.parameters.learning_rate=0.0003", "cohort.quorum=66%", "rounds.count=3", "seed=1"]
    manifest = load_experiment(file, id="brain-tumour-lr3", overrides=overrides)
    assert manifest.id == "brain-tumour-lr3"
    assert manifest.training.parameters["learning_rate"] == 0.0003
    assert (manifest.cohort.quorum, manifest.rounds.count, manifest.seed) == ("66%", 3, 1)


def test_a_brought_model_is_named_by_its_digest(file: Path) -> None:
    model = file.parent / "unet.safetensors"
    model.write_bytes(b"weights")
    size, sha256 = file_digest(model)
    by_option = read_experiment(file, overrides=['model.initial="file:unet.safetensors"'])
    file.write_text(GOOD.replace('"trainer"', '"file:unet.safetensors"', 1))
    for read in (by_option, read_experiment(file)):
        assert read.manifest.model.initial == Brought(size=size, sha256=sha256)
        assert read.brought == model
    assert read_experiment(file, overrides=['model.initial="trainer"']).brought is None


def found(experiment: str, which: Which) -> GlobalModel:
    """Finds any model; the last is that of round 12, the best that of round 10."""
    round_ = {"last": 12, "best": 10}.get(str(which), which)
    return GlobalModel(experiment, int(round_), "key", 9, "a" * 64)


def test_a_fork_is_named_by_experiment_round_and_digest(file: Path) -> None:
    file.write_text(GOOD.replace('"trainer"', '"experiment:older@7"', 1))
    manifest = load_experiment(file, find_fork=found)
    assert manifest.model.initial == Forked(experiment="older", round=7, size=9, sha256="a" * 64)


BAD = [
    ("schema = 1", "schema = 2", "schema: must be 1"),
    ("schema = 1", "schema = true", "schema: must be 1"),
    ('id = "brain-tumour"', 'id = "Brain Tumour"', "id: must be lower-case letters"),
    ('id = "brain-tumour"', 'id = "hub"', "reserved word"),
    ('id = "brain-tumour"', f'id = "{"a" * 41}"', "id: string should have at most 40 characters"),
    ("seed = 7", "seed = -1", "seed: input should be greater than or equal to 0"),
    ("seed = 7", "seed = 7.5", "seed: input should be a valid integer"),
    ("seed = 7", "sed = 7", "sed: is not known here; valid keys are schema, id, "),
    ("count = 10", "count = 0", "rounds.count: input should be greater than or equal to 1"),
    ("count = 10", "count = -1", "rounds.count: "),
    ("count = 10", "count = 1000000000", "rounds.count: input should be less than or equal to 10000"),
    ("count = 10", 'count = "10"', "rounds.count: input should be a valid integer"),
    ("count = 10", "count = true", "rounds.count: input should be a valid integer"),
    ("count = 10", "", "rounds.count: is missing"),
    ('sites = ["clinic-1", "clinic-2", "clinic-3"]', "sites = []", "cohort.sites: "),
    ('sites = ["clinic-1", "clinic-2", "clinic-3"]', 'sites = "clinic-1"', "cohort.sites: "),
    ('"clinic-2", ', '"clinic-1", ', "names a site twice"),
    ("quorum = 2", "quorum = 4", "cohort.quorum is 4, but a round asks 3 sites"),
    ("quorum = 2", "quorum = 0", "cohort.quorum: must be a number of sites"),
    ("quorum = 2", "quorum = 0.66", "cohort.quorum: must be a number of sites"),
    ("quorum = 2", 'quorum = "110%"', "cohort.quorum: must be a number of sites"),
    ("quorum = 2", 'quorum = "0%"', "cohort.quorum: must be a number of sites"),
    ("quorum = 2", "quorum = true", "cohort.quorum: must be a number of sites"),
    ("quorum = 2", "sample = 5", "cohort.sample asks for 5 of 3 sites"),
    ('deadline = "24h"', "deadline = 0", "rounds.deadline: must be a duration"),
    ('deadline = "24h"', 'deadline = "0h"', "rounds.deadline: input should be greater than or equal to 1"),
    ('deadline = "24h"', 'deadline = "-1h"', "rounds.deadline: must be a duration"),
    ('deadline = "24h"', 'deadline = "1 day"', "rounds.deadline: must be a duration"),
    ('deadline = "24h"', 'deadline = "99999999d"', "rounds.deadline: "),
    ('on_missed = "pause"', 'on_missed = "wait"', "rounds.on_missed: input should be 'pause' or 'fail'"),
    ('name = "fedavg"', 'name = "fedsgd"', "strategy.name: input should be 'fedavg'"),
    ('weight = "cases"', "norm_at_most = 0", "strategy.norm_at_most: "),
    ('weight = "cases"', "norm_at_most = nan", "strategy.norm_at_most: "),
    ('weight = "cases"', "trim = 1", "strategy.trim: is not known here; valid keys are name, weight, norm_at_most"),
    ('optimizer_state = "reset"', 'optimizer_state = "forget"', "training.optimizer_state: input should be 'reset'"),
    ("epochs = 4", "epochs = 0", "training.epochs: "),
    ("learning_rate = 0.001", "learning_rate = nan", "training.parameters.learning_rate: must be a finite number"),
    ("learning_rate = 0.001", "learning_rate = inf", "training.parameters.learning_rate: must be a finite number"),
    ("learning_rate = 0.001", "learning_rate = {a = 1}", "training.parameters.learning_rate: must be a finite number"),
    ("learning_rate = 0.001", "learning_rate = 2026-01-01", "training.parameters.learning_rate: must be a finite"),
    ('site = "clinic-1"', 'site = "clinic-9"', "evaluation.test.site is 'clinic-9', which is not in cohort.sites"),
    ('initial = "trainer"', 'initial = "latest"', 'model.initial: must be "trainer"'),
    ('initial = "trainer"', 'initial = "file:gone.safetensors"', "model.initial: there is no file"),
    ('initial = "trainer"', "initial = 7", 'model.initial: must be "trainer"'),
    ('initial = "trainer"', 'initial = "experiment:x@1"', "cannot be looked up here"),
    ('goal = "max"', 'goal = "most"', "model.best.goal: input should be 'min' or 'max'"),
    ("[rounds]", "[rounds", "is not TOML"),
    ("schema = 1", "schema = 1\nschema = 1", "is not TOML"),
]


@pytest.mark.parametrize(("old", "new", "told"), BAD, ids=[f"{new or old}"[:40] for old, new, _ in BAD])
def test_what_does_not_fit_is_told_in_one_line_with_the_field(file: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(CommandError) as failed:
        load_experiment(file)
    assert told in str(failed.value)
    assert "\n" not in str(failed.value)
    assert failed.value.code == Exit.BAD_INPUT


@pytest.mark.parametrize("override", ["", "seed", "=1", "a b=1", "seed.x=1", "training.parameters=3"])
def test_an_override_that_does_not_fit_is_told(file: Path, override: str) -> None:
    with pytest.raises(CommandError):
        load_experiment(file, overrides=[override])


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is a folder"):
        load_experiment(tmp_path)
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        load_experiment(tmp_path / "gone.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CommandError, match="is not TOML"):
        load_experiment(tmp_path / "binary.toml")
    deep = tmp_path / "deep.toml"
    deep.write_text("a = " + "[" * 100_000)
    with pytest.raises(CommandError, match="is not TOML"):
        load_experiment(deep)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    huge = tmp_path / "huge.toml"
    with huge.open("wb") as file:
        os.truncate(file.fileno(), 2**31)
    with pytest.raises(CommandError, match="larger than"):
        load_experiment(huge)


@pytest.mark.parametrize(
    "bomb",
    [
        "a" + ".a" * 60_000 + " = 1",
        "[" + "a." * 60_000 + "a]",
        '"a"' + '."a"' * 60_000 + "=1",
        "x = {" + "a.b." * 9_999 + "c=1}",
    ],
    ids=["key", "header", "quoted", "inline"],
)
def test_a_key_of_thousands_of_parts_is_refused_before_it_takes_memory(file: Path, bomb: str) -> None:
    file.write_text(f"schema = 1\n{bomb}\n")
    begin = time.monotonic()
    with pytest.raises(CommandError, match=r"more than 32 parts|larger than"):
        load_experiment(file)
    assert time.monotonic() - begin < 1


def test_every_field_of_the_example_can_be_broken_without_a_traceback(file: Path) -> None:
    """Each value of the file in turn becomes something else: always a manifest or one line, nothing else."""
    for line in GOOD.strip().splitlines():
        if " = " not in line:
            continue
        for value in (
            "nan",
            "-1",
            "true",
            '""',
            '"\\u0000"',
            "[]",
            "{}",
            "1979-05-27",
            '"' + "x" * 500 + '"',
            "2" * 50,
        ):
            file.write_text(GOOD.replace(line, f"{line.split(' = ')[0]} = {value}", 1))
            with contextlib.suppress(CommandError):
                load_experiment(file)


def test_a_long_word_is_read_in_no_time() -> None:
    begun = time.monotonic()
    assert bounded_toml(b'purpose = "' + b"x" * 200_000 + b'"')["purpose"]
    with pytest.raises(ValueError, match="more than"):
        bounded_toml(b"a." * 40 + b"a = 1")
    assert time.monotonic() - begun < 2


# --- begun with another experiment's model ---------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "round_"), [("7", 7), ("0", 0), ("last", 12), ("best", 10)])
@pytest.mark.parametrize("written", ["trainer", "file:gone.safetensors", "experiment:older@3"])
def test_another_experiments_model_stands_in_for_the_files(file: Path, which: str, round_: int, written: str) -> None:
    file.write_text(GOOD.replace('"trainer"', f'"{written}"', 1))
    read = read_experiment(file, id="next", find_fork=found, begin_with=f"brain-tumour@{which}")
    assert read.manifest.model.initial == Forked(experiment="brain-tumour", round=round_, size=9, sha256="a" * 64)
    assert read.brought is None


@pytest.mark.parametrize(
    "text", ["brain-tumour", "brain-tumour@", "brain-tumour@-1", "brain-tumour@1234567", "A@1", "@7"]
)
def test_what_names_no_model_is_told(file: Path, text: str) -> None:
    with pytest.raises(CommandError, match=r"--from .*: must be EXPERIMENT@ROUND, such as brain-tumour@7"):
        read_experiment(file, id="next", find_fork=found, begin_with=text)


def test_no_experiment_begins_with_a_model_of_its_own(file: Path) -> None:
    file.write_text(GOOD)
    own = load_experiment(file).id
    with pytest.raises(CommandError, match=rf"--from: '{own}' cannot begin with a model of its own; .* --id"):
        read_experiment(file, find_fork=found, begin_with=f"{own}@7")
