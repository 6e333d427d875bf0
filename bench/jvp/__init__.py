"""Networks and contestants of bench_jvp: one network per file, one family of contestants per file.

`form` says what a network is; `recurrent`, `transformer`, `rotary`, `selective_scan` define them as systems, and
`jax_steps` the same steps in JAX; `native`, `torch_ways`, `jax_ways`, `by_hand` roll them out with tangents; `truth`
is the float64 check of every result. JAX is imported by `jax_steps`, `jax_ways` and
`by_hand_jax` only.
"""
