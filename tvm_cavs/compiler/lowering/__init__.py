"""Stages -> steps on buffers, and the specifications of kernels: data, without TVM."""
