"""The plugin of NASLib (automl/NASLib): the only place that imports it.

Needs NASLib's source (``NASLIB_HOME``) and ``pip install -e ".[naslib]"``; without them every name here raises one
error that says so (`loader.NASLibError`), and the rest of naslib_autokd works.
"""
