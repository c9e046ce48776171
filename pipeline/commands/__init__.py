"""The commands of ``watchword``: one group a file, mounted in ``run_stream.py``."""
