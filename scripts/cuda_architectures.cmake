# For CMake's CMAKE_TOOLCHAIN_FILE: llama.cpp is compiled for the GPUs that CUDAARCHS names (`90`, or several as `80;90`). Unless CMake
# was told before the project begins, llama.cpp asks for those of this machine, and without one CMake gives up.
set(CMAKE_CUDA_ARCHITECTURES $ENV{CUDAARCHS} CACHE STRING "")
