"""Kernels that plan and call kernels: they run on the host, whatever the target."""
