"""What happened, in figures: per experiment, round and site.

`history.py` folds the journal into rounds and steps, `figures.py` makes a round's figures of it and of the answers,
`live.py` follows what sites say they are doing, `board.py` holds the three together and `view.py` is the picture of an
experiment that a display shows. These are pure. `reading.py` reads the store, `service.py` listens to the stream.
"""
