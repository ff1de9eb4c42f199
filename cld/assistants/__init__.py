"""Assistants at work: the dialogue of one task with its model, and the calls the model asks for.

Goes on where the journal ends, so that working a task again repeats nothing. Must not change the task: it hands
back what came of it, or says what has to be waited for. `job` holds the words, `dialogue` what a model is told and
when its answer is one, `calls` what becomes of each call it asks for.
"""

from cld.assistants.dialogue import work
from cld.assistants.job import CallsTools, Done, Job, Parked

__all__ = ["CallsTools", "Done", "Job", "Parked", "work"]
