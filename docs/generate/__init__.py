"""Pages that are generated from the code and the results, so that nothing in them is written twice.

`pages.py` is the way in: it lists every generated page. The other modules each make one kind of page or one kind of
text: `options.py` and `words.py` the options of recipes, `commands.py` the commands, `api.py` the Python API,
`results.py` and `tables.py` the results, `citations.py` the numbers that hand-written pages cite.
"""
