"""Ingest: files of a folder become documents and passages in the tree, and stay in step with it.

What it promises:

- *Derived and incremental*: one `common.Document` a file, one `common.Text` a passage below it. A second
  run over files that did not change writes nothing; of a changed file only the passages that changed are
  replaced; what went away from the folder goes from the tree. Ids come from path and content and sort in
  the order of the text.
- *Found again*: a document says where its file lies, which bytes it was (digest), and where in the
  converted text each passage stands.
- *A bad file hurts nobody*: conversion happens in processes of their own with bounds on time, memory and
  output; a file that breaks one is reported with its reason, and the rest goes on.
- *Interrupted is harmless*: a document carries its file's digest only once all its passages are there, so
  that the next run completes what a killed one left.

Everything is written through the `GuardedStore` that is handed in. Must not follow a link out of the folder
it was given, and knows no principals and no MCP.
"""

from cld.ingest.report import Failure, Progress, Report
from cld.ingest.run import ingest

__all__ = ["Failure", "Progress", "Report", "ingest"]
