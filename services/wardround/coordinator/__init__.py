"""Decides: experiments and rounds.

`state.py` folds the journal into a state, `steps.py` says when a step closes, `decide.py` what is to be written next,
`commands.py` what a command of a researcher leads to, `due.py` what is to be said to whom. These are pure. Around them
`observe.py` reads what sites and the aggregator left in the store, `experiment.py` runs one experiment's
list-decide-act loop, `admission.py` lets new experiments in, and `app.py` wires it all to the bus.
"""
