"""Decides: experiments and rounds.

Pure: `evolve.py` folds the journal into the state of `state.py`, `steps.py` says when a step closes, `plan.py` which
step comes next, `decide.py` what is to be written, `commands.py` what a researcher's command leads to, `due.py` what
is to be said to whom. Around them `observe.py` reads what sites and the aggregator left in the store, `experiment.py`
runs one experiment's list-decide-act loop, `outbox.py` speaks for it, `admission.py` lets new experiments in, and
`app.py` wires it all to the bus.
"""
