"""Definitions of all charts, each once, as data: a table becomes an Altair chart (Vega-Lite).

`look` says how all look; `curves`, `rows` and `images` know nothing of runs, which `reports.figures` brings.
"""
