# Which folders of csrc/cpu are compiled, and with which flags. The flags of a folder are in its flags.txt and reach
# nothing else: a file outside must run on every processor of the architecture.
#   TQS_CPU_SOURCES   sources of the chosen folders

option(TQS_VECTORS "Build the kernels for vector instructions beside the scalar ones" ON)
set(TQS_ISAS scalar)
if(NOT TQS_VECTORS)
    # Minutes less to compile, for tests of something else.
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang"
   AND NOT MSVC)
    list(APPEND TQS_ISAS avx2 avx512)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64|ARM64)$" AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang"
       AND NOT MSVC)
    list(APPEND TQS_ISAS neon)
endif()

set(TQS_CPU_SOURCES)
foreach(isa IN LISTS TQS_ISAS)
    file(STRINGS csrc/cpu/${isa}/flags.txt flags)
    if(MSVC)
        set(flags)
    endif()
    if(isa STREQUAL "avx512" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
        # GCC 12 takes the undefined pass-through operand inside its own AVX-512 header for ours (GCC bug 105593).
        string(APPEND flags " -Wno-maybe-uninitialized -Wno-uninitialized")
    endif()
    foreach(name IN ITEMS quantize dequantize prepack qgemm gates products attention elementwise rows movement table)
        list(APPEND TQS_CPU_SOURCES csrc/cpu/${isa}/${name}.cpp)
        set(own_flags "${flags}")
        if(name MATCHES "^(quantize|gates|elementwise|rows)$" AND NOT MSVC)
            # Fused multiply-adds are written out there: the same bits wherever a function is inlined.
            string(APPEND own_flags " -ffp-contract=off")
        endif()
        set_source_files_properties(csrc/cpu/${isa}/${name}.cpp PROPERTIES COMPILE_FLAGS "${own_flags}")
    endforeach()
endforeach()

set(isa_definitions ${TQS_ISAS})
list(TRANSFORM isa_definitions TOUPPER)
list(TRANSFORM isa_definitions PREPEND TQS_ISA_)
set_source_files_properties(csrc/cpu/tables.cpp PROPERTIES COMPILE_DEFINITIONS "${isa_definitions}")
if("avx2" IN_LIST TQS_ISAS)
    list(APPEND TQS_CPU_SOURCES csrc/cpu/cpu_features.cpp)
elseif("neon" IN_LIST TQS_ISAS)
    list(APPEND TQS_CPU_SOURCES csrc/cpu/cpu_features_aarch64.cpp)
endif()

# The same random numbers everywhere: no fused multiply-add where the text says otherwise.
if(NOT MSVC)
    set_source_files_properties(csrc/core/rng.cpp PROPERTIES COMPILE_FLAGS -ffp-contract=off)
endif()
