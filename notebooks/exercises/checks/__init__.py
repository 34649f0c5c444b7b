"""The checks of the exercises, one module a chapter; `verdict` is how they speak.

A check computes what it expects by another route than the solution takes: by least squares instead of normal equations,
by counting, by the library. It is given the reader's function, and names what is off in one sentence.
"""
