"""The report on a run: one HTML file that opens anywhere, with the figures as PNG files beside it.

`reading.py` reads runs, `facts.py` says what the report says of them (pure), `charts.py` draws, `page.py` sets the
page, and `write.py` does it all: `write_report(folder)` from Python, `wardround report` on the command line.
"""
