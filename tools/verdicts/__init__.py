"""Whether the executor's verdicts agree with the labels of real data; see __main__.py."""
