"""What happened, in figures: per experiment, round and site.

`evolve.py` folds the journal into the rounds and steps of `history.py`, `figures.py` makes a round's figures of these
and of the answers, `live.py` follows what sites say they are doing, `lines.py` words the log, `board.py` holds it all,
and `viewing.py` makes of it the `view.py` that a display shows; `summary.py` makes a line of a list, `site_row.py` a
row of a site, `page.py` the page for people. These are pure. `reading.py`, `rebuild.py` and `catalogue.py` read the
store, `service.py` listens to the stream, and `feed.py` tells on what is said there. `web.py` and `streaming.py` answer
over HTTP, `exposition.py` answers Prometheus.
"""
