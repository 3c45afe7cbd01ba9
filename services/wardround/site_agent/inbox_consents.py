"""Offers made to a site and its consents, as its inbox keeps them."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from wardround_messages.base import canonical_json
from wardround_messages.commands import OfferExperiment
from wardround_messages.manifest import Manifest
from wardround_messages.objects import Consent

NUMBER_AT_MOST = 99


class ConsentsKept:
    """The part of an inbox that is about offers, manifests and consents."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield self._database
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def open_offers(self) -> tuple[OfferExperiment, ...]:
        """Offers taken and not answered yet, of each manifest the newest, in the order in which they were made."""
        rows = self._database.execute("SELECT body FROM offers WHERE answered = 0").fetchall()
        return tuple({(offer.experiment, offer.manifest_sha256): offer for offer in _in_order(rows)}.values())

    def offers_of(self, experiment: str) -> tuple[OfferExperiment, ...]:
        """All offers of the experiment, in the order in which they were made."""
        return _in_order(
            self._database.execute("SELECT body FROM offers WHERE experiment = ?", (experiment,)).fetchall()
        )

    def experiments_offered(self) -> tuple[str, ...]:
        """The experiments of which an offer is known."""
        rows = self._database.execute("SELECT DISTINCT experiment FROM offers ORDER BY experiment").fetchall()
        return tuple(name for (name,) in rows)

    def came_at(self, offer: OfferExperiment) -> datetime | None:
        """When the offer came; None once that is forgotten."""
        row = self._database.execute("SELECT at FROM messages WHERE id = ?", (offer.id,)).fetchone()
        return None if row is None else datetime.fromtimestamp(row[0], UTC)

    def is_open(self, offer: OfferExperiment) -> bool:
        """Whether the offer waits for its answer."""
        row = self._database.execute("SELECT 1 FROM offers WHERE id = ? AND answered = 0", (offer.id,)).fetchone()
        return row is not None

    def manifest(self, sha256: str) -> Manifest | None:
        row = self._database.execute("SELECT body FROM manifests WHERE sha256 = ?", (sha256,)).fetchone()
        return None if row is None else Manifest.model_validate_json(row[0])

    def keep_manifest(self, manifest: Manifest) -> None:
        with self._transaction():
            self._keep_manifest(manifest)

    def _keep_manifest(self, manifest: Manifest) -> None:
        self._database.execute(
            "INSERT OR IGNORE INTO manifests VALUES (?, ?, ?)",
            (manifest.sha256, manifest.id, canonical_json(manifest)),
        )

    def consent(self, experiment: str, manifest_sha256: str) -> Consent | None:
        """The newest consent of this site to that manifest."""
        row = self._database.execute(
            "SELECT body FROM consents WHERE experiment = ? AND manifest = ? ORDER BY number DESC LIMIT 1",
            (experiment, manifest_sha256),
        ).fetchone()
        return None if row is None else Consent.model_validate_json(row[0])

    def consents_of(self, experiment: str) -> tuple[Consent, ...]:
        """All consents to the experiment, of each manifest in the order in which they were given."""
        rows = self._database.execute(
            "SELECT body FROM consents WHERE experiment = ? ORDER BY manifest, number", (experiment,)
        ).fetchall()
        return tuple(Consent.model_validate_json(body) for (body,) in rows)

    def grants(self, experiment: str) -> tuple[Consent, ...]:
        """What the site has granted and not withdrawn since, for each manifest of the experiment.

        As the hub has it, a grant stands while more rounds are considered, and when these are declined.
        """
        standing: dict[str, Consent] = {}
        for consent in self.consents_of(experiment):
            if consent.verdict == "granted":
                standing[consent.manifest_sha256] = consent
            elif consent.verdict == "withdrawn":
                standing.pop(consent.manifest_sha256, None)
        return tuple(standing.values())

    def grant(self, experiment: str, manifest_sha256: str) -> Consent | None:
        """What the site has granted of that manifest and not withdrawn since."""
        return next((each for each in self.grants(experiment) if each.manifest_sha256 == manifest_sha256), None)

    def next_number(self, experiment: str, manifest_sha256: str) -> int:
        """The number of the next consent to that manifest."""
        newest = self.consent(experiment, manifest_sha256)
        return 1 if newest is None else min(newest.number + 1, NUMBER_AT_MOST)

    def experiments_to_store(self) -> tuple[str, ...]:
        """Experiments with a consent that was decided and is not known to be in the store."""
        rows = self._database.execute(
            "SELECT DISTINCT experiment FROM consents WHERE stored = 0 ORDER BY experiment"
        ).fetchall()
        return tuple(name for (name,) in rows)

    def consents_to_store(self, experiment: str) -> tuple[Consent, ...]:
        """Consents to the experiment that were decided and are not known to be in the store."""
        rows = self._database.execute(
            "SELECT body FROM consents WHERE stored = 0 AND experiment = ? ORDER BY manifest, number", (experiment,)
        ).fetchall()
        return tuple(Consent.model_validate_json(body) for (body,) in rows)

    def keep_consent(self, consent: Consent) -> None:
        """Record a consent; it answers the offer that it names, and what was offered of the manifest before that."""
        with self._transaction() as database:
            database.execute(
                "INSERT OR REPLACE INTO consents VALUES (?, ?, ?, ?, 0)",
                (consent.experiment, consent.manifest_sha256, consent.number, canonical_json(consent)),
            )
            self._are_answered(consent.experiment, consent.manifest_sha256, up_to=consent.offer)

    def _are_answered(self, experiment: str, manifest_sha256: str, *, up_to: int) -> None:
        self._database.executemany(
            "UPDATE offers SET answered = 1 WHERE id = ?",
            [
                (offer.id,)
                for offer in self.offers_of(experiment)
                if offer.manifest_sha256 == manifest_sha256 and offer.offer <= up_to
            ],
        )

    def _supersede_offers(self, experiment: str, manifest_sha256: str) -> None:
        """Whichever of them came first, only the newest offer of a manifest waits for an answer."""
        made = [offer.offer for offer in self.offers_of(experiment) if offer.manifest_sha256 == manifest_sha256]
        self._are_answered(experiment, manifest_sha256, up_to=max(made) - 1)

    def keep_recovered(self, consents: Iterable[Consent]) -> None:
        """Record consents found in the store; what was recorded here under their numbers stays."""
        with self._transaction() as database:
            database.executemany(
                "INSERT OR IGNORE INTO consents VALUES (?, ?, ?, ?, 1)",
                [(each.experiment, each.manifest_sha256, each.number, canonical_json(each)) for each in consents],
            )

    def renumber_consent(self, consent: Consent, number: int) -> Consent:
        """The number was taken in the store by another content: the same consent under a higher one."""
        renumbered = consent.model_copy(update={"number": number})
        with self._transaction() as database:
            database.execute(
                "UPDATE consents SET number = ?, body = ? WHERE experiment = ? AND manifest = ? AND number = ?",
                (
                    number,
                    canonical_json(renumbered),
                    consent.experiment,
                    consent.manifest_sha256,
                    consent.number,
                ),
            )
        return renumbered

    def consent_is_stored(self, consent: Consent) -> None:
        self._database.execute(
            "UPDATE consents SET stored = 1 WHERE experiment = ? AND manifest = ? AND number = ?",
            (consent.experiment, consent.manifest_sha256, consent.number),
        )


def _in_order(rows: Iterable[tuple[bytes]]) -> tuple[OfferExperiment, ...]:
    offers = (OfferExperiment.model_validate_json(body) for (body,) in rows)
    return tuple(sorted(offers, key=lambda offer: (offer.experiment, offer.offer)))
