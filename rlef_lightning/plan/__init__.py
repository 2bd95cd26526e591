"""A config -> what a run will do, before anything is loaded: batches, memory, traffic, time, faults.

Reads the config and the model folder's config.json; needs no weights, no GPU and no other machine.
"""
