# For CMake's CMAKE_TOOLCHAIN_FILE, where llama.cpp is built with its CUDA kernels: what CMake must be told before the project begins.

# By default they call the driver's library by name, and an engine that has them would start only where there is a driver. Their pool
# of scratch memory is one of whole buffers then, not one that grows in place.
set(GGML_CUDA_NO_VMM ON CACHE BOOL "")

# Otherwise llama.cpp asks for the GPUs of this machine, and without one CMake gives up.
if(DEFINED ENV{CUDAARCHS})
  set(CMAKE_CUDA_ARCHITECTURES $ENV{CUDAARCHS} CACHE STRING "")
endif()
