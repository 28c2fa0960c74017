"""What is compiled: Numba for the CPU, Triton for the GPU. The files of `lib.ops` import it on the first call."""
