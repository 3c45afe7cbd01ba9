"""What happened, in figures: per experiment, round and site.

`evolve.py` folds the journal into the rounds and steps of `history.py`, `figures.py` makes a round's figures of these
and of the answers, `live.py` follows what sites say they are doing, `lines.py` words the log, `board.py` holds it all,
and `viewing.py` makes of it the `view.py` that a display shows. These are pure. `reading.py` and `rebuild.py` read the
store, `service.py` listens to the stream.
"""
