# A part of tvm_cavs. This line tells it from other packages of the same name.
"""Finding the best schedule parameters for the kernels and row counts that a network really runs.

Tuning records and the search that makes them come here. They enter the compiler as an argument:
`tvm_cavs` never imports this package.
"""
