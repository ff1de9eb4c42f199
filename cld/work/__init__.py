"""Work: from a message to its answer. The engine claims tasks, has them worked, and keeps everybody informed.

`cld.work.engine` schedules, `cld.work.working` works one task, `cld.work.requests` is what hosts ask for.
Everything it knows it has from the tree, so that any process can go on where another one ended.
"""
