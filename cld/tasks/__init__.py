"""Tasks: their states, their order, their conditions and what they may spend; all of it pure functions.

Nothing here reads or writes the tree: `cld.work` does, and puts every change of a task as a compare-and-swap.
"""
