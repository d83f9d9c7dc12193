"""The kinds of a tape's lines on CUDA, beside the elementwise operations' codes; see compiler/cuda_tables.py."""

SUM, TAKE, DENSE, THIN, PAIR, OUTER, PLAIN = -1, -2, -3, -4, -5, -6, -7
