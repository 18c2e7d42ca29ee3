"""Benchmarks: how long a batch takes, planning and all, and how near the machine's limit that is.

A workload (`workloads`) is trained or run and timed (`measure`); its matrix products are counted
(`arithmetic`) and NumPy's best product is timed in between, in a process of its own (`sgemm`).
"""
