"""Which files are a site's cases, and on which side of the split they stand."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.training.cases import VALIDATION, CaseFolders, split_by_salt
from wardround.training.errors import CaseUnreadableError, TaskError
from wardround_messages.task_folder import JobData

NAMES = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=60)


def folders(*paths: Path) -> CaseFolders:
    return CaseFolders(JobData(name="data", folders=tuple(map(str, paths))))


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


# --- finding them ------------------------------------------------------------------------------------------------


def test_cases_of_several_folders_are_sorted_by_name(tmp_path: Path) -> None:
    touch(tmp_path / "b" / "1.txt", tmp_path / "a" / "2.txt", tmp_path / "a" / "1.txt", tmp_path / "a" / "1.csv")
    found = folders(tmp_path / "b", tmp_path / "a")
    assert [path.relative_to(tmp_path).as_posix() for path in found.glob("*.txt")] == ["a/1.txt", "a/2.txt", "b/1.txt"]
    assert [found.name(path) for path in found.glob("*.txt")] == ["a/1.txt", "a/2.txt", "b/1.txt"]


def test_a_case_of_a_single_folder_keeps_its_name_when_the_folder_moves(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "x" / "1.txt")
    before = folders(tmp_path / "a")
    assert [before.name(path) for path in before.glob("**/*.txt")] == ["x/1.txt"]
    (tmp_path / "a").rename(tmp_path / "b")
    after = folders(tmp_path / "b")
    assert [after.name(path) for path in after.glob("**/*.txt")] == ["x/1.txt"]


def test_a_data_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    touch(tmp_path / "disk" / "1.txt")
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    assert len(folders(tmp_path / "data").glob("*.txt")) == 1


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    touch(tmp_path / "data" / "1.txt")
    (tmp_path / "data" / "2.txt").symlink_to(tmp_path / "data" / "1.txt")
    assert len(folders(tmp_path / "data").glob("*.txt")) == 2


@pytest.mark.parametrize("pattern", ["*.txt", "case-*", "case-*/*.txt"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, pattern: str) -> None:
    touch(tmp_path / "secret" / "s.txt", tmp_path / "data" / "case-1" / "1.txt")
    (tmp_path / "data" / "s.txt").symlink_to(tmp_path / "secret" / "s.txt")
    (tmp_path / "data" / "case-1" / "s.txt").symlink_to(tmp_path / "secret" / "s.txt")
    (tmp_path / "data" / "case-2").symlink_to(tmp_path / "secret")
    with pytest.raises(TaskError) as refused:
        folders(tmp_path / "data").glob(pattern)
    assert refused.value.code == "link_out_of_folder"
    assert str(tmp_path) not in refused.value.hint


@pytest.mark.parametrize("target", ["absent.txt", "1.txt"])
def test_a_link_that_leads_nowhere_or_round_in_a_circle_is_unreadable(tmp_path: Path, target: str) -> None:
    (tmp_path / "1.txt").symlink_to(tmp_path / target)
    with pytest.raises(CaseUnreadableError):
        folders(tmp_path).glob("*.txt")


@pytest.mark.parametrize("pattern", ["../*.txt", "a/../../*", "/etc/*"])
def test_a_pattern_may_not_lead_out(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(TaskError, match="link_out_of_folder"):
        folders(tmp_path).glob(pattern)


# --- the split ---------------------------------------------------------------------------------------------------


@given(NAMES, st.text(max_size=8), st.randoms())
def test_the_split_does_not_depend_on_order(names: list[str], salt: str, random: object) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert split_by_salt(names, salt, VALIDATION) == split_by_salt(shuffled, salt, VALIDATION)


@given(NAMES, st.text(max_size=8), st.floats(0, 1))
def test_neither_side_is_empty_from_two_cases_on(names: list[str], salt: str, share: float) -> None:
    validation = split_by_salt(names, salt, share)
    assert validation <= set(names)
    if len(names) > 1:
        assert 0 < len(validation) < len(names)


def test_a_case_keeps_its_side_when_others_come() -> None:
    few = [f"case-{number}" for number in range(50)]
    many = [f"case-{number}" for number in range(500)]
    assert split_by_salt(few, "salt", 0.2) == split_by_salt(many, "salt", 0.2) & set(few)


def test_the_share_is_met_roughly_and_another_salt_splits_otherwise() -> None:
    names = [f"case-{number}" for number in range(1000)]
    validation = split_by_salt(names, "salt", 0.2)
    assert 150 < len(validation) < 250
    assert len(validation & split_by_salt(names, "another", 0.2)) < 80
