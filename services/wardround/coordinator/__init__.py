"""Decides: experiments and rounds.

`state.py` folds the journal into a state, `steps.py` says when a step closes, `decide.py` what is to be written next,
`orders.py` what a researcher's command leads to, `due.py` what is to be said to whom. These five are pure. Around them
`observe.py` reads what sites and the aggregator left in the store, `experiment.py` runs one experiment's
list-decide-act loop, `admission.py` lets new experiments in, and `app.py` wires it all to the bus.
"""
