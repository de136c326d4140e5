"""What only a GPU can answer, as one command: is what it computes right, does a step wait, how fast is it.

``table.py`` lists the steps; ``session.py`` runs them, each in the time that it has, by processes of ``worker.py``;
``report.py`` writes what they find as it comes. The modules beside them are the steps.
"""
