# Whether the CUDA kernels are built (TQS_CUDA), or their throwing twins in csrc/no_cuda. EMULATED builds the whole backend
# as ordinary C++ over tests/native/cuda_emulator, whose one GPU is the processor: to test the engine, thousands of times
# too slow for anything else.
#   TQS_CUDA_SOURCES, TQS_CUDA_LIBRARIES

if(NOT TQS_CUDA MATCHES "^(AUTO|ON|OFF|EMULATED)$")
    message(FATAL_ERROR "TQS_CUDA must be AUTO, ON, OFF or EMULATED, got '${TQS_CUDA}'")
endif()

set(cuda_sources
    csrc/cuda/multiply_bfloat16.cu
    csrc/cuda/multiply_float16.cu
    csrc/cuda/multiply_int8.cu
    csrc/cuda/qgemm.cu
    csrc/cuda/device_properties.cpp
    csrc/cuda/plan.cpp
    csrc/cuda/program/attention.cu
    csrc/cuda/program/attention_tensor.cu
    csrc/cuda/program/context.cpp
    csrc/cuda/program/cublas_lt.cpp
    csrc/cuda/program/dense_products.cpp
    csrc/cuda/program/depthwise.cu
    csrc/cuda/program/device.cpp
    csrc/cuda/program/host_memory.cpp
    csrc/cuda/program/elementwise.cu
    csrc/cuda/program/layer.cu
    csrc/cuda/program/layer_tensor.cu
    csrc/cuda/program/matmul_tensor.cu
    csrc/cuda/program/movement.cu
    csrc/cuda/program/noise.cu
    csrc/cuda/program/packed_layer.cpp
    csrc/cuda/program/products.cu
    csrc/cuda/program/rounding.cu
    csrc/cuda/program/rows.cu
    csrc/cuda/program/steps.cu
    csrc/cuda/program/stretching.cu
    csrc/cuda/table.cpp)

set(build_cuda OFF)
if(TQS_CUDA MATCHES "^(AUTO|ON)$")
    include(CheckLanguage)
    check_language(CUDA)
    if(CMAKE_CUDA_COMPILER)
        set(build_cuda ON)
    elseif(TQS_CUDA STREQUAL "ON")
        message(FATAL_ERROR "TQS_CUDA=ON needs nvcc: install the CUDA toolkit and put nvcc on PATH, or set CUDACXX")
    endif()
endif()

if(build_cuda)
    enable_language(CUDA)
    if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.0)
        if(TQS_CUDA STREQUAL "ON")
            message(FATAL_ERROR "TQS_CUDA=ON needs nvcc 12.0 or newer (C++20), found ${CMAKE_CUDA_COMPILER_VERSION}")
        endif()
        message(STATUS "tqs-fast: nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than 12.0 (C++20)")
        set(build_cuda OFF)
    endif()
endif()

if(build_cuda)
    set(CMAKE_CUDA_ARCHITECTURES ${TQS_CUDA_ARCHITECTURES})
    # By flag: CMake before 3.26 does not know that nvcc has C++20 (for the same reason C++ has its standard as a
    # feature of the target: CMAKE_CXX_STANDARD would be inherited by CUDA).
    add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
    # Sizes that host and device agree on are constexpr functions.
    add_compile_options($<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr>)
    # Static: the module imports on a machine without CUDA, and next to any CUDA runtime torch brings.
    set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
    find_package(CUDAToolkit REQUIRED)
    set(TQS_CUDA_SOURCES ${cuda_sources} csrc/cuda/program/cublas_lt_library.cpp)
    # Multiply-adds are written out where they are meant: no element differs for the kernel or the loop it was inlined in.
    foreach(family attention attention_tensor attention_warpgroups depthwise elementwise layer layer_tensor matmul_tensor
            movement noise products rounding rows steps stretching)
        set_source_files_properties(csrc/cuda/program/${family}.cu PROPERTIES COMPILE_OPTIONS --fmad=false)
    endforeach()
    if("90a" IN_LIST TQS_CUDA_ARCHITECTURES)
        # A target of its own: the architectures of a source file cannot be chosen.
        add_library(tqs_warpgroups OBJECT
            csrc/cuda/program/attention_warpgroups.cu
            csrc/cuda/warpgroups_bfloat16.cu
            csrc/cuda/warpgroups_float16.cu
            csrc/cuda/warpgroups_int8.cu)
        set_target_properties(tqs_warpgroups PROPERTIES CUDA_ARCHITECTURES 90a)
        target_compile_features(tqs_warpgroups PRIVATE cxx_std_20)
        target_include_directories(tqs_warpgroups PRIVATE csrc)
        target_compile_options(tqs_warpgroups PRIVATE ${TQS_WARNINGS})
        list(APPEND TQS_CUDA_SOURCES $<TARGET_OBJECTS:tqs_warpgroups>)
    else()
        list(APPEND TQS_CUDA_SOURCES csrc/cuda/no_warpgroups.cpp csrc/cuda/program/no_attention_warpgroups.cpp)
    endif()
    # Its headers for the folder that may include them: the other files are then compiled as in a build without CUDA.
    set(TQS_CUDA_LIBRARIES $<LINK_ONLY:CUDA::cudart_static> ${CMAKE_DL_LIBS})
    set(cpp_sources ${TQS_CUDA_SOURCES})
    list(FILTER cpp_sources INCLUDE REGEX "[.]cpp$")
    set_source_files_properties(${cpp_sources} PROPERTIES INCLUDE_DIRECTORIES "${CUDAToolkit_INCLUDE_DIRS}")
    list(JOIN TQS_CUDA_ARCHITECTURES "," architecture_names)
    set_source_files_properties(csrc/cuda/table.cpp PROPERTIES COMPILE_DEFINITIONS
        "TQS_CUDA_ARCHITECTURES=\"${architecture_names}\"")
    message(STATUS "tqs-fast: CUDA kernels for ${TQS_CUDA_ARCHITECTURES}")
elseif(TQS_CUDA STREQUAL "EMULATED")
    set(TQS_CUDA_SOURCES ${cuda_sources}
        csrc/cuda/no_warpgroups.cpp
        csrc/cuda/program/attention_warpgroups.cu
        tests/native/cuda_emulator/asynchronous.cpp
        tests/native/cuda_emulator/cublas_lt.cpp
        tests/native/cuda_emulator/fibers.cpp
        tests/native/cuda_emulator/meetings.cpp
        tests/native/cuda_emulator/memory.cpp
        tests/native/cuda_emulator/runtime.cpp
        tests/native/cuda_emulator/schedule.cpp
        tests/native/cuda_emulator/streams.cpp)
    set(TQS_CUDA_LIBRARIES)
    foreach(source IN LISTS TQS_CUDA_SOURCES)
        set_source_files_properties(${source} PROPERTIES
            LANGUAGE CXX
            COMPILE_OPTIONS "-x;c++;-Wno-unknown-pragmas"
            INCLUDE_DIRECTORIES ${CMAKE_CURRENT_SOURCE_DIR}/tests/native/cuda_emulator)
    endforeach()
    # Whose bits are those of the processor's files.
    foreach(family noise rounding)
        set_property(SOURCE csrc/cuda/program/${family}.cu APPEND PROPERTY COMPILE_OPTIONS -ffp-contract=off)
    endforeach()
    set_source_files_properties(csrc/cuda/table.cpp PROPERTIES COMPILE_DEFINITIONS
        "TQS_CUDA_ARCHITECTURES=\"emulated\"")
    message(STATUS "tqs-fast: CUDA kernels on the emulator")
else()
    set(TQS_CUDA_SOURCES csrc/no_cuda/table.cpp)
    set(TQS_CUDA_LIBRARIES)
    message(STATUS "tqs-fast: no CUDA kernels")
endif()
