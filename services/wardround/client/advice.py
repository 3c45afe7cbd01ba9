"""Who can mend what a clinic says is wrong, and how: by the code, as the words may have stayed at the clinic."""

from dataclasses import dataclass
from typing import Literal

from wardround.client.checked import SiteChecked

Who = Literal["researcher", "data owner", "IT"]


@dataclass(frozen=True, slots=True)
class Advice:
    """`who` is to act: the researcher, or the clinic's data owner or IT."""

    who: Who
    what: str


_INSTALL = Advice("IT", "install the trainer for the clinic's trainings")
_LOG = Advice("IT", "the log of the clinic's agent says more; wardround site doctor")
_TRAINER = Advice("researcher", "the trainer itself is wrong: wardround trainer check NAME --data DIR")
_PARAMETERS = Advice("researcher", "correct training.parameters: wardround trainer describe NAME")
_POLICY = Advice("data owner", "policy.toml would have to allow it; wardround site policy explain shows the rule")
_CASES = Advice("data owner", "this clinic has too few cases in the data set")

_BY_CODE: dict[str, Advice] = {
    # its word
    "policy": _POLICY,
    "policy_missing": Advice("data owner", "write the clinic's policy.toml"),
    "policy_unreadable": Advice("data owner", "mend policy.toml: wardround site policy explain names the line"),
    "withdrawn": Advice("data owner", "the clinic took its consent back while it was asked"),
    "trainer_missing": _INSTALL,
    "parameters": _PARAMETERS,
    "dataset_unknown": Advice("IT", "name the data set and its folder in site.toml"),
    "split_salt": Advice("IT", "make the data set's split salt readable for the agent alone"),
    "consent_unreadable": _LOG,
    "site_stopped": Advice("data owner", "they stopped all work at the clinic; it goes on with wardround site resume"),
    # what it tried
    "trainer_unknown": _INSTALL,
    "trainer_broken": Advice("IT", "the trainer is installed and cannot be loaded: wardround trainer describe NAME"),
    "parameters_invalid": _PARAMETERS,
    "data_missing": Advice("IT", "a folder that site.toml names for the data set is not there"),
    "data_empty": Advice("IT", "the data set's folder holds nothing that the trainer reads: wrong folder or layout"),
    "data_layout": Advice("IT", "the data set's folder is not laid out as the trainer reads it: see its log"),
    "data_names": Advice("researcher", "agree on the names of modalities and labels: wardround trainer describe NAME"),
    "too_few_cases": _CASES,
    "case_unreadable": Advice("IT", "the log of the task at the clinic names the case"),
    "link_out_of_folder": Advice("IT", "a link leads out of the data folder: put the file itself there"),
    "gpu_missing": Advice("IT", "the trainer needs a GPU where the clinic trains"),
    "gpu_memory": Advice("researcher", "a smaller batch, or a clinic's GPU with more memory free"),
    "disk_full": Advice("IT", "free some space where the clinic trains"),
    "trainer_error": Advice("researcher", "ask the clinic for the log of the task: the trainer raised an error"),
    "metric_undeclared": _TRAINER,
    "layout_changed": _TRAINER,
    "model_unsuitable": Advice("researcher", "the first model is not of this trainer with these training.parameters"),
    "model_unsupported": _TRAINER,
    "state_unsupported": _TRAINER,
    "optimizer_state_unsupported": _TRAINER,
    "agent_error": Advice("IT", "the clinic's agent met a fault of its own: its log says which; please report it"),
    "crashed": Advice("IT", "the training crashed before it left a result: the log of its run says why"),
    "killed": Advice("IT", "the training was killed: is there enough memory where the clinic trains?"),
    "scheduler_lost": Advice("IT", "the scheduler lost the training's process: see its log, then check again"),
    "cancelled": Advice("IT", "somebody at the clinic stopped the run: ask them, then check again"),
    "no_folder": Advice("IT", "mount the spool where the clinic trains, and set WARDROUND_SPOOL there"),
    "not_configured": Advice("IT", "set WARDROUND_PYTHON and WARDROUND_SPOOL where the clinic trains"),
    "bad_conf": Advice("IT", "the DAG got another configuration than the agent's: use Wardround's own DAG"),
    "dag_missing": Advice("IT", "put the DAG's file where Airflow looks for DAGs, or correct scheduler.dags"),
    "dag_import_error": Advice("IT", "mend the file of the DAG: Airflow's front page says what is wrong in it"),
    "dag_paused": Advice("IT", "unpause the DAG: airflow dags unpause wardround_task"),
    "airflow_login": Advice("IT", "Airflow does not let the agent in: correct username and password of [scheduler]"),
    "airflow_forbidden": Advice("IT", "give the agent's login at Airflow the rights in deploy/airflow/README.md"),
    "airflow_redirect": Advice("IT", "scheduler.url in site.toml must be Airflow's own address"),
    "airflow_refused": Advice("IT", "Airflow refused a call of the agent: wardround site doctor, then Airflow's log"),
    "airflow_queued": Advice("IT", "no worker took the run in time: see Airflow's scheduler, pool and queue"),
    "run_id_taken": Advice("IT", "somebody else made this run in Airflow: who may make runs of the DAG?"),
    "nonfinite_update": Advice("researcher", "one step gave no finite number: see learning rate and data"),
}

_BY_RESULT: dict[str, Advice] = {
    "pending": Advice("data owner", "nothing now: a person there agrees once the experiment is started"),
    "silent": Advice("IT", "is the clinic's agent running? wardround sites shows when it was last heard of"),
    "late": Advice("researcher", "give it more time: --within 10m"),
    "unanswered": Advice("researcher", "give it more time: --within 10m; then the clinic's IT"),
}


def advice_on(site: SiteChecked) -> Advice | None:
    """None where nothing is wrong."""
    if site.result == "ready":
        return None
    if site.result == "silent" and site.code:
        return _BY_CODE.get(site.code)
    return _BY_RESULT.get(site.result) or _BY_CODE.get(site.code) or _LOG
