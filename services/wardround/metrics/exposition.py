"""Experiments and sites as Prometheus reads them: worked out when it asks, of the newest ones alone."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wardround.metrics.board import Board
from wardround.metrics.site_row import site_rows
from wardround.metrics.summary import STATES, Summary, newest
from wardround.runtime.clock import Clock

EXPERIMENTS_AT_MOST = 100
SITES_AT_MOST = 500


class BoardCollector(Collector):
    """Gauges of the experiments that go on or ended last, and of the sites in their cohorts.

    The number of series does not grow with the experiments there ever were; names in labels are ids, which cannot
    hold anything else, and the metric is the one that the manifest names.
    """

    def __init__(self, board: Board, *, clock: Clock) -> None:
        self._board = board
        self._clock = clock

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: the board may be large when this is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        shown = newest(self._board.experiments.values(), at_most=EXPERIMENTS_AT_MOST)
        yield from _of_experiments(shown)
        yield self._sites_seen(shown)

    def _sites_seen(self, shown: Iterable[Summary]) -> Metric:
        seen = GaugeMetricFamily(
            "wardround_site_last_seen_seconds", "How long ago a site last said what it has.", labels=["site"]
        )
        cohorts = (self._board[each.experiment].history for each in shown)
        wanted = dict.fromkeys(site for history in cohorts if history is not None for site in history.sites)
        known = [site for site in wanted if site in self._board.sites][:SITES_AT_MOST]
        for row in site_rows({site: self._board.sites[site] for site in known}, self._clock()):
            seen.add_metric([row.site], row.seen_ago)
        return seen


def _of_experiments(shown: Iterable[Summary]) -> Iterator[Metric]:
    round_ = GaugeMetricFamily("wardround_experiment_round", "Round of the latest model.", labels=["experiment"])
    rounds = GaugeMetricFamily("wardround_experiment_rounds", "Rounds planned.", labels=["experiment"])
    state = GaugeMetricFamily(
        "wardround_experiment_state", "1 for the state that it is in.", labels=["experiment", "state"]
    )
    metric = GaugeMetricFamily(
        "wardround_experiment_metric",
        "The manifest's metric of the latest model, once measured.",
        labels=["experiment", "metric"],
    )
    for each in shown:
        round_.add_metric([each.experiment], each.round)
        rounds.add_metric([each.experiment], each.rounds)
        for name in STATES:
            state.add_metric([each.experiment, name], float(name == each.state))
        if each.metric is not None and each.value is not None:
            metric.add_metric([each.experiment, each.metric], each.value)
    yield from (round_, rounds, state, metric)
