"""What a federation is held against: the same trainer and budget on pooled data, and at each clinic alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround.simulation.sites import POLICY_FILE, Allowed, Clinic, beside, policy_text
from wardround.site_agent.settings import Dataset
from wardround_messages.manifest import Cohort, Manifest
from wardround_messages.names import EXPERIMENT_MAX

POOLED = "pooled"
ALONE = "alone"


@dataclass(frozen=True, slots=True)
class Reference:
    """A training at one place, `site`, on the data of the sites `of`.

    `folder` is where it lies below its run's, `name` the end of its id, `label` what people read.
    """

    site: str
    of: tuple[str, ...]
    folder: Path
    name: str
    label: str


def pooled_reference(manifest: Manifest) -> Reference:
    return Reference(POOLED, manifest.cohort.sites, Path(POOLED), name=POOLED, label=POOLED)


def alone_references(manifest: Manifest) -> list[Reference]:
    """One for each site of the cohort, in sorted order."""
    return [
        Reference(site, (site,), Path(ALONE, site), name=f"{ALONE}-{site}", label=f"{site} {ALONE}")
        for site in sorted(manifest.cohort.sites)
    ]


def reference_manifest(manifest: Manifest, reference: Reference) -> Manifest:
    """The experiment with one site; all else is the same, the optimizer's treatment between rounds as well."""
    test = manifest.evaluation.test
    return manifest.model_copy(
        update={
            "id": f"{manifest.id[: EXPERIMENT_MAX - len(reference.name) - 1].rstrip('-')}-{reference.name}",
            "cohort": Cohort(sites=(reference.site,)),
            "evaluation": manifest.evaluation.model_copy(
                update={"test": test.model_copy(update={"site": reference.site}) if test else None}
            ),
        }
    )


def reference_clinic(folder: Path, clinics: Sequence[Clinic], manifest: Manifest, reference: Reference) -> Clinic:
    """The one site of the reference: it holds the data of the sites `of`, and the common test cases."""
    by_name = {clinic.name: clinic for clinic in clinics}
    test = manifest.evaluation.test
    holders = {manifest.training.dataset: [by_name[site] for site in reference.of]}
    if test is not None:
        holders[test.dataset] = [by_name[test.site]]
    folder.mkdir(parents=True, exist_ok=True)
    policy = folder / POLICY_FILE
    policy.write_text(policy_text([Allowed(manifest.study, manifest.training.trainer, tuple(sorted(holders)))]))
    datasets = {name: held for name, sites in holders.items() if (held := _together(name, sites)) is not None}
    settings = by_name[reference.of[0]].settings.model_copy(update={"site": reference.site, "datasets": datasets})
    return beside(Clinic(settings, policy), folder)


def _together(name: str, clinics: Sequence[Clinic]) -> Dataset | None:
    held = [clinic.settings.datasets[name] for clinic in clinics if name in clinic.settings.datasets]
    if not held:
        return None
    return held[0].model_copy(update={"path": tuple(path for dataset in held for path in dataset.path)})
